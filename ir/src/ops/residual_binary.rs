//! The fused residual-binary layer: the op that this compiler exists for.

use super::gate::{Activation, gated};
use super::rms_norm::normalize;
use super::{activation, matrix, not_negative, same, vector};
use crate::interp::{EvalContext, EvalError};
use crate::layout::{MAX_ROW_TILES, SignLayout};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op, word_attr};

word_attr! {
    /// What is done to the input before the product, in the same kernel.
    pub enum Prologue {
        /// Nothing.
        None = "none",
        /// `rms_norm` with the next operand as its weight.
        RmsNorm = "rms_norm",
        /// `gate` with the next operand as `up`.
        Gate = "gate",
    }
}

word_attr! {
    /// The number format the product's input is turned into.
    pub enum Activations {
        /// Not chosen yet.
        Unset = "unset",
        /// Tables of partial sums, 8 bits an entry, one scale a block of inputs.
        Int8 = "int8",
        /// Tables of partial sums, 16 bits an entry, one scale a block of inputs.
        Int16 = "int16",
        /// Tables of partial sums in f32.
        F32 = "f32",
    }
}

op! {
    /// y = Σ_i g_i ⊙ (B_i (h_i ⊙ u)), u = prologue(x), for one or more segments that share u.
    ///
    /// Operands after x: the norm's weight or `up` if there is a prologue; then, while
    /// not `packed`, (signs `bit[k,d_out,d_in]`, g `[k,d_out]`, h `[k,d_in]`) for every
    /// segment; else packed signs, packed g and h `[segments·k, d_in]`; then the residual that is
    /// added to the result, if there is one. The result's columns are the segments in order.
    ResidualBinary = "residual_binary"("x", "operands*") {
        /// Binary paths.
        paths: usize,
        /// Outputs of each segment.
        segments: Vec<usize>,
        /// What is done to x first.
        prologue: Prologue,
        /// The activation of a `gate` prologue.
        act: Activation,
        /// The eps of an `rms_norm` prologue.
        eps: f32,
        /// The unit offset of an `rms_norm` prologue.
        unit_offset: bool,
        /// Whether the last operand is added to the result.
        residual: bool,
        /// Tiles in a row block of the packed layout; 0 while none is chosen.
        row_tiles: usize,
        /// Whether the weights are in the packed layout.
        packed: bool,
        /// The format of the product's input.
        activations: Activations,
    }
}

/// The operands of a [`ResidualBinary`] by role, as indices into the operand list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// The norm's weight or `up`.
    pub prologue: Option<usize>,
    /// (signs, g, h): one triple a segment, or a single one when packed.
    pub weights: Vec<[usize; 3]>,
    /// The residual.
    pub residual: Option<usize>,
}

impl ResidualBinary {
    /// A plain layer of one segment: no prologue, no residual, not packed.
    pub fn plain(paths: usize, d_out: usize) -> Self {
        ResidualBinary {
            paths,
            segments: vec![d_out],
            prologue: Prologue::None,
            act: Activation::Silu,
            eps: 0.0,
            unit_offset: false,
            residual: false,
            row_tiles: 0,
            packed: false,
            activations: Activations::Unset,
        }
    }

    /// Which operand plays which role.
    pub fn roles(&self) -> Roles {
        let first = 1 + usize::from(self.prologue != Prologue::None);
        let groups = if self.packed { 1 } else { self.segments.len() };
        let group = |s: usize| [0, 1, 2].map(|i| first + 3 * s + i);
        Roles {
            prologue: (self.prologue != Prologue::None).then_some(1),
            weights: (0..groups).map(group).collect(),
            residual: self.residual.then_some(first + 3 * groups),
        }
    }

    /// The packed layout for an input of `d_in` channels.
    pub fn layout(&self, d_in: usize) -> SignLayout {
        SignLayout {
            d_in,
            paths: self.paths,
            segments: self.segments.clone(),
            row_tiles: self.row_tiles,
        }
    }

    fn check_weights(&self, d_in: usize, o: &[&Type], roles: &Roles) -> Result<(), String> {
        if self.packed {
            let layout = self.layout(d_in);
            layout.check()?;
            let [signs, g, h] = roles.weights[0].map(|i| o[i]);
            let bytes = layout.sign_bytes().ok_or("size of the signs overflows")?;
            if *signs != Type::fixed(DType::U8, &[bytes]) {
                return Err(format!("packed signs must be u8[{bytes}], found {signs}"));
            }
            let count = layout.scale_count().ok_or("size of the scales overflows")?;
            same("length of packed g", count, vector("g", g)?)?;
            let (rows, columns) = matrix("h", h)?;
            let paths = self.segments.len().checked_mul(self.paths);
            same("rows of h", paths.ok_or("paths overflow")?, rows)?;
            return same("columns of h", d_in, columns);
        }
        for (s, group) in roles.weights.iter().enumerate() {
            let [signs, g, h] = group.map(|i| o[i]);
            let expected = Type::fixed(DType::Bit, &[self.paths, self.segments[s], d_in]);
            if *signs != expected {
                return Err(format!(
                    "signs of segment {s} must be {expected}, found {signs}"
                ));
            }
            let (k, d_out) = matrix("g", g)?;
            same("paths of g", self.paths, k)?;
            same("channels of g", self.segments[s], d_out)?;
            let (k, columns) = matrix("h", h)?;
            same("paths of h", self.paths, k)?;
            same("channels of h", d_in, columns)?;
            let [_, first_g, first_h] = roles.weights[0].map(|i| o[i].dtype);
            if (g.dtype, h.dtype) != (first_g, first_h) {
                return Err(format!(
                    "scales of segment {s} have another dtype than the first's"
                ));
            }
        }
        Ok(())
    }

    fn check_prologue(&self, x: &Type, d_in: usize, operand: Option<&Type>) -> Result<(), String> {
        match (self.prologue, operand) {
            (Prologue::RmsNorm, Some(w)) => {
                not_negative("eps", self.eps)?;
                same("length of the norm", d_in, vector("norm", w)?)
            }
            (Prologue::Gate, Some(up)) if up != x => {
                Err(format!("gate and up differ: {x} and {up}"))
            }
            _ => Ok(()),
        }
    }

    /// The product's input: x after the prologue.
    pub fn input<F: Real>(&self, operands: &[&Tensor<F>]) -> Tensor<F> {
        let x = operands[0];
        let data = match self.prologue {
            Prologue::None => x.floats().to_vec(),
            Prologue::Gate => gated(self.act, x.floats(), operands[1].floats()),
            Prologue::RmsNorm => {
                let mut data = x.floats().to_vec();
                for row in data.chunks_mut(x.width().max(1)) {
                    normalize(row, operands[1].floats(), self.eps, self.unit_offset);
                }
                data
            }
        };
        Tensor::real(&x.shape, data)
    }

    /// Plain (signs, g, h) of every segment, unpacked if need be.
    pub fn plain_weights<F: Real>(
        &self,
        operands: &[&Tensor<F>],
    ) -> Vec<(Tensor<F>, Vec<F>, Vec<F>)> {
        let (roles, d_in) = (self.roles(), operands[0].width());
        if !self.packed {
            let groups = roles.weights.iter();
            return groups
                .map(|group| {
                    let [signs, g, h] = group.map(|i| operands[i]);
                    (signs.clone(), g.floats().to_vec(), h.floats().to_vec())
                })
                .collect();
        }
        let layout = self.layout(d_in);
        let [signs, g, h] = roles.weights[0].map(|i| operands[i]);
        let segments = layout.unpack_signs(signs.raw()).into_iter().enumerate();
        segments
            .map(|(s, bits)| {
                let d_out = self.segments[s];
                let rows = (0..self.paths).flat_map(|p| (0..d_out).map(move |r| (p, r)));
                let g = rows.map(|(p, r)| g.floats()[layout.scale_index(s, p, r)]);
                let h = &h.floats()[s * self.paths * d_in..][..self.paths * d_in];
                let shape = [self.paths, d_out, d_in];
                (
                    Tensor::of_bytes(DType::Bit, &shape, bits),
                    g.collect(),
                    h.to_vec(),
                )
            })
            .collect()
    }
}

impl OpRules for ResidualBinary {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d_in) = activation("x", operands[0])?;
        if self.paths == 0 || self.segments.is_empty() || self.segments.contains(&0) {
            return Err("there must be a path, a segment and outputs in each".into());
        }
        if self.row_tiles > MAX_ROW_TILES {
            return Err(format!(
                "row_tiles is {}, at most {MAX_ROW_TILES}",
                self.row_tiles
            ));
        }
        let roles = self.roles();
        let expected = 1
            + usize::from(roles.prologue.is_some())
            + 3 * roles.weights.len()
            + usize::from(self.residual);
        same("number of operands", expected, operands.len())?;
        self.check_prologue(operands[0], d_in, roles.prologue.map(|i| operands[i]))?;
        self.check_weights(d_in, operands, &roles)?;
        let d_out = self
            .segments
            .iter()
            .try_fold(0usize, |n, d| n.checked_add(*d));
        let d_out = d_out.ok_or("segments overflow")?;
        let ty = Type::new(DType::F32, [rows, Dim::Fixed(d_out)]);
        match roles.residual.map(|i| operands[i]) {
            Some(residual) if *residual != ty => {
                Err(format!("residual is {residual}, the result {ty}"))
            }
            _ => Ok(ty),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let u = self.input(operands);
        let weights = self.plain_weights(operands);
        let residual = self.roles().residual.map(|i| operands[i].floats());
        let d_out: usize = self.segments.iter().sum();
        let mut out = Vec::with_capacity(u.rows() * d_out);
        for u in u.floats().chunks(u.width().max(1)) {
            for (signs, g, h) in &weights {
                out.extend(segment(u, signs, g, h).into_iter().map(F::round));
            }
        }
        for (y, r) in out.iter_mut().zip(residual.unwrap_or_default()) {
            *y += *r;
        }
        Ok(Tensor::real(&[u.rows(), d_out], out))
    }

    no_gradient!("effective_weight is the form of a residual-binary layer for training");
}

/// Σ_i g_i ⊙ (B_i (h_i ⊙ u)) for one segment and one token.
fn segment<F: Real>(u: &[F], signs: &Tensor<F>, g: &[F], h: &[F]) -> Vec<f64> {
    let [paths, d_out, d_in] = [signs.shape[0], signs.shape[1], signs.shape[2]];
    let mut y = vec![0.0f64; d_out];
    let stride = d_in.div_ceil(8);
    for path in 0..paths {
        let h = &h[path * d_in..][..d_in];
        let scaled: Vec<f64> = u.iter().zip(h).map(|(u, h)| (*u * *h).wide()).collect();
        let total: f64 = scaled.iter().sum();
        for (row, y) in y.iter_mut().enumerate() {
            let row = path * d_out + row;
            let bits = &signs.raw()[row * stride..][..stride];
            let terms = scaled.iter().enumerate();
            let positive: f64 = terms
                .map(|(j, u)| {
                    if bits[j / 8] >> (j % 8) & 1 == 1 {
                        *u
                    } else {
                        0.0
                    }
                })
                .sum();
            *y += g[row].wide() * (2.0 * positive - total);
        }
    }
    y
}
