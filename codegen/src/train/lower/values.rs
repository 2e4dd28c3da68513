//! Values and views: where results go, and where operands are.

use rabitc_ir::{DType, NodeId, Op};

use super::Lower;
use crate::CodegenError;
use crate::train::step::{Map, Place, Step, Store, Term, Value, View};

impl Lower<'_> {
    /// A new value, `place` as it is known so far.
    pub(super) fn value(
        &mut self,
        id: NodeId,
        dtype: DType,
        place: Place,
    ) -> Result<View, CodegenError> {
        let name = self.graph.node(id).name.clone();
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        self.named_value(name, &shape, dtype, place)
    }

    pub(super) fn named_value(
        &mut self,
        name: String,
        shape: &[usize],
        dtype: DType,
        place: Place,
    ) -> Result<View, CodegenError> {
        let (columns, outer) = shape.split_last().map_or((1, shape), |(n, o)| (*n, o));
        let rows = outer.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bytes = rows.and_then(|r| r.checked_mul(columns)?.checked_mul(8));
        let (Some(rows), Some(_)) = (rows, bytes) else {
            return Err(CodegenError::plan(format!("%{name}: the size overflows")));
        };
        self.plan.values.push(Value {
            name,
            dtype,
            rows,
            columns,
            shape: shape.to_vec(),
            place,
        });
        Ok(View {
            value: self.plan.values.len() - 1,
            offset: 0,
            rows,
            columns,
            stride: columns,
        })
    }

    /// A new value of the arena for the result of `id`.
    pub(super) fn result(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let dtype = self.precision.of(self.graph, id);
        let view = self.value(id, dtype, Place::Arena(0))?;
        self.views.insert(id, view);
        Ok(view)
    }

    pub(super) fn source(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let ty = self.graph.ty(id).clone();
        let (place, known) = match self.graph.op(id) {
            Op::Weight(weight) => {
                let known = self.weights.get(&weight.name).copied();
                (Place::Weight(weight.name.clone()), known)
            }
            Op::Input(input) if ty.dtype == DType::I32 && ty.rank() == 1 => {
                (Place::Input(input.name.clone()), None)
            }
            Op::Const(constant) => (Place::Constant(constant.data.clone()), None),
            _ => return Err(self.error(id, format!("an input must be i32[n], found {ty}"))),
        };
        if matches!(place, Place::Weight(_)) && !ty.dtype.is_float() {
            return Err(self.error(id, format!("a weight must be of floats, found {ty}")));
        }
        let mut view = self.value(id, ty.dtype, place.clone())?;
        match (place, known) {
            (Place::Weight(_), Some(value)) => {
                self.plan.values.pop();
                view.value = value;
            }
            (Place::Weight(name), None) => {
                self.weights.insert(name, view.value);
            }
            _ => {}
        }
        self.views.insert(id, view);
        Ok(view)
    }

    /// Where the result of `id` is.
    pub fn view(&mut self, id: NodeId) -> Result<View, CodegenError> {
        if let Some(view) = self.views.get(&id) {
            return Ok(*view);
        }
        match self.graph.op(id) {
            Op::Input(_) | Op::Weight(_) | Op::Const(_) => self.source(id),
            _ => Err(self.error(id, "it is read before it is computed: a defect of the plan")),
        }
    }

    /// The gradient held for a weight, as `like` is shaped.
    pub(super) fn gradient(&mut self, name: &str, like: View) -> Result<View, CodegenError> {
        if let Some(value) = self.gradients.get(name) {
            return Ok(View {
                value: *value,
                offset: 0,
                stride: like.columns,
                ..like
            });
        }
        let shape = [like.rows, like.columns];
        let place = Place::Gradient(name.to_string());
        let view = self.named_value(format!("grad.{name}"), &shape, DType::F32, place)?;
        self.gradients.insert(name.to_string(), view.value);
        Ok(view)
    }

    /// Where `id` is computed to if it goes straight into a gradient.
    pub(super) fn straight(&mut self, id: NodeId) -> Result<Option<View>, CodegenError> {
        if !self.goes_straight(id) {
            return Ok(None);
        }
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        let like = View {
            value: 0,
            offset: 0,
            rows: shape[..shape.len() - 1].iter().product(),
            columns: shape[shape.len() - 1],
            stride: shape[shape.len() - 1],
        };
        let name = self.roots.sinks[&id][0].clone();
        self.gradient(&name, like).map(Some)
    }

    pub(super) fn load(&mut self, node: String, from: View, stores: Vec<Store>) {
        self.plan.steps.push(Step::Map(Map {
            node,
            rows: from.rows,
            columns: from.columns,
            operands: vec![from],
            terms: vec![Term::Load { operand: 0 }],
            stores,
        }));
    }

    /// A copy of `from` as another type.
    pub(super) fn copy(
        &mut self,
        name: String,
        from: View,
        dtype: DType,
    ) -> Result<View, CodegenError> {
        let shape = [from.rows, from.columns];
        let to = self.named_value(name.clone(), &shape, dtype, Place::Arena(0))?;
        let (term, accumulate) = (0, false);
        let store = Store {
            term,
            to,
            accumulate,
        };
        self.load(name, from, vec![store]);
        Ok(to)
    }

    /// What a product reads for `id`: its result, in the type that products read.
    pub(super) fn factor(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let from = self.view(id)?;
        let (dtype, storage) = (self.plan.values[from.value].dtype, self.options.storage);
        if dtype == storage {
            return Ok(from);
        }
        if let Some(copy) = self.converted.get(&from) {
            return Ok(*copy);
        }
        let name = format!("{} as {storage}", self.graph.node(id).name);
        let copy = self.copy(name, from, storage)?;
        self.converted.insert(from, copy);
        Ok(copy)
    }

    /// The number that a scalar node always has, if it has one.
    pub fn constant(&self, id: NodeId) -> Option<f32> {
        match self.graph.op(id) {
            Op::Const(constant) if constant.data.len() == 1 => Some(constant.data[0]),
            Op::WeightedSum(sum) => {
                let operands = self.graph.operands(id).into_iter();
                let terms = operands.zip(&sum.factors).map(|(operand, factor)| {
                    Some(f64::from(self.constant(operand)?) * f64::from(*factor))
                });
                Some(terms.sum::<Option<f64>>()? as f32)
            }
            _ => None,
        }
    }

    /// The view of a scalar that is constant.
    pub(super) fn known_scalar(&mut self, id: NodeId) -> Result<Option<View>, CodegenError> {
        let Some(number) = self.constant(id) else {
            return Ok(None);
        };
        if !self.views.contains_key(&id) {
            let view = self.value(id, DType::F32, Place::Constant(vec![number]))?;
            self.views.insert(id, view);
        }
        self.view(id).map(Some)
    }
}
