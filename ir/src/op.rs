//! The op table.
//!
//! An op is one file under `ops/` (a struct whose fields are its attributes, declared with
//! [`op!`](crate::op!), and an [`OpRules`] impl) and one line in [`op_table!`](crate::op). There
//! is no other list of ops in this crate.

use crate::attr::AttrText;
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::ops;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::Type;

/// What [`op!`](crate::op!) derives from an op's declaration.
pub trait OpInfo: Sized {
    /// Name in the text form.
    const NAME: &'static str;
    /// One line of documentation.
    const DOC: &'static str;
    /// Operand names; a last one that ends in `*` stands for any number of operands.
    const OPERANDS: &'static [&'static str];
    /// Attribute names and printed values, in order of declaration.
    fn attrs(&self) -> Vec<(&'static str, String)>;
    /// The op from its attributes; the error names the attribute that is missing, unknown or bad.
    fn from_attrs(attrs: &[(String, AttrText)]) -> Result<Self, String>;
}

/// What an op's file states about it.
pub trait OpRules: OpInfo {
    /// Whether it is evaluated once, when an artifact is written, from weights alone.
    const COMPILE_TIME: bool = false;
    /// Whether computing it again takes next to nothing beside reading what it is computed from,
    /// so that a backward pass need not keep its result.
    const CHEAP: bool = false;
    /// Why it has no gradient; set by [`no_gradient!`](crate::no_gradient!).
    const NO_GRADIENT: Option<&'static str> = None;
    /// The type of the result, or what does not fit. Called with the right number of operands.
    fn infer(&self, operands: &[&Type]) -> Result<Type, String>;
    /// Reference semantics. Called with operands of the inferred types.
    fn eval<F: Real>(
        &self,
        ctx: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError>;
    /// Adds the gradients of the operands to the graph, given that of the result. An op without
    /// any says so with [`no_gradient!`](crate::no_gradient!).
    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError>;
}

/// Declares an op's struct: `Name = "text_name"(operands) { attribute: Type, … }`.
#[macro_export]
macro_rules! op {
    (
        #[doc = $doc:literal]
        $(#[doc = $more:literal])*
        $name:ident = $text:literal ( $($operand:literal),* $(,)? )
        { $( $(#[doc = $adoc:literal])* $attr:ident : $ty:ty ),* $(,)? }
    ) => {
        #[doc = $doc]
        $(#[doc = $more])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[doc = $adoc])* pub $attr: $ty ),* }

        impl $crate::op::OpInfo for $name {
            const NAME: &'static str = $text;
            const DOC: &'static str = $doc.trim_ascii();
            const OPERANDS: &'static [&'static str] = &[$($operand),*];

            fn attrs(&self) -> Vec<(&'static str, String)> {
                vec![$( (stringify!($attr), $crate::attr::Attr::print(&self.$attr)) ),*]
            }

            #[allow(unused_variables)]
            fn from_attrs(attrs: &[(String, $crate::attr::AttrText)]) -> Result<Self, String> {
                let known: &[&str] = &[$( stringify!($attr) ),*];
                $crate::op::check_attrs(known, attrs)?;
                Ok($name { $( $attr: $crate::op::attr(attrs, stringify!($attr))? ),* })
            }
        }
    };
}

/// Refuses attributes that the op does not have, and attributes given twice.
pub fn check_attrs(known: &[&str], attrs: &[(String, AttrText)]) -> Result<(), String> {
    for (i, (name, _)) in attrs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            return Err(format!("unknown attribute `{name}`"));
        }
        if attrs[..i].iter().any(|(n, _)| n == name) {
            return Err(format!("attribute `{name}` is given twice"));
        }
    }
    Ok(())
}

/// The attribute `name`, parsed.
pub fn attr<A: crate::attr::Attr>(attrs: &[(String, AttrText)], name: &str) -> Result<A, String> {
    let (_, text) = attrs
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("attribute `{name}` is missing"))?;
    A::parse(text).map_err(|e| format!("attribute `{name}`: {e}"))
}

/// One row of the op list in the documentation.
pub struct OpDoc {
    /// Name in the text form.
    pub name: &'static str,
    /// Operand names.
    pub operands: &'static [&'static str],
    /// One line.
    pub doc: &'static str,
    /// Whether it is evaluated when an artifact is written.
    pub compile_time: bool,
    /// Why it has no gradient, if it has none.
    pub no_gradient: Option<&'static str>,
}

macro_rules! op_table {
    ($($variant:ident: $module:ident),* $(,)?) => {
        /// Any op of the table, with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $(
            #[doc = concat!("See [`ops::", stringify!($module), "`].")]
            $variant(ops::$module::$variant)
        ),* }

        $(impl From<ops::$module::$variant> for Op {
            fn from(op: ops::$module::$variant) -> Op { Op::$variant(op) }
        })*

        impl Op {
            /// The whole table, for documentation.
            pub fn table() -> Vec<OpDoc> {
                vec![$( OpDoc {
                    name: <ops::$module::$variant as OpInfo>::NAME,
                    operands: <ops::$module::$variant as OpInfo>::OPERANDS,
                    doc: <ops::$module::$variant as OpInfo>::DOC,
                    compile_time: <ops::$module::$variant as OpRules>::COMPILE_TIME,
                    no_gradient: <ops::$module::$variant as OpRules>::NO_GRADIENT,
                } ),*]
            }

            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $( Op::$variant(_) => <ops::$module::$variant as OpInfo>::NAME ),* }
            }

            /// Operand names; a last one that ends in `*` stands for any number.
            pub fn operand_names(&self) -> &'static [&'static str] {
                match self { $( Op::$variant(_) => <ops::$module::$variant as OpInfo>::OPERANDS ),* }
            }

            /// Whether it is evaluated once, when an artifact is written.
            pub fn compile_time(&self) -> bool {
                match self { $( Op::$variant(_) => <ops::$module::$variant as OpRules>::COMPILE_TIME ),* }
            }

            /// Whether a backward pass had better compute it again than keep it.
            pub fn cheap(&self) -> bool {
                match self { $( Op::$variant(_) => <ops::$module::$variant as OpRules>::CHEAP ),* }
            }

            /// Adds the gradients of the operands to the graph, given that of the result.
            pub fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
                match self { $( Op::$variant(op) => op.gradient(b) ),* }
            }

            /// Attribute names and printed values.
            pub fn attrs(&self) -> Vec<(&'static str, String)> {
                match self { $( Op::$variant(op) => op.attrs() ),* }
            }

            /// The op of that name from its attributes.
            pub fn from_text(name: &str, attrs: &[(String, AttrText)]) -> Result<Op, String> {
                $( if name == <ops::$module::$variant as OpInfo>::NAME {
                    return <ops::$module::$variant as OpInfo>::from_attrs(attrs).map(Op::$variant);
                } )*
                Err(format!("unknown op `{name}`"))
            }

            /// The type of the result, or what does not fit.
            pub fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
                check_arity(self.operand_names(), operands.len())?;
                match self { $( Op::$variant(op) => op.infer(operands) ),* }
            }

            /// Reference semantics.
            pub fn eval<F: Real>(
                &self,
                ctx: &mut EvalContext<'_, F>,
                operands: &[&Tensor<F>],
            ) -> Result<Tensor<F>, EvalError> {
                match self { $( Op::$variant(op) => op.eval(ctx, operands) ),* }
            }
        }
    };
}

fn check_arity(names: &[&str], found: usize) -> Result<(), String> {
    let variadic = names.last().is_some_and(|n| n.ends_with('*'));
    let least = names.len() - usize::from(variadic);
    if found < least || (!variadic && found > least) {
        let or_more = if variadic { " or more" } else { "" };
        return Err(format!(
            "takes {least}{or_more} operands ({}), found {found}",
            names.join(", ")
        ));
    }
    Ok(())
}

op_table! {
    Input: source,
    Weight: source,
    Const: source,
    Embed: embed,
    RmsNorm: rms_norm,
    Linear: linear,
    LinearInt8: linear_int8,
    AddBias: elementwise,
    Add: elementwise,
    Mul: elementwise,
    Silu: elementwise,
    GeluTanh: elementwise,
    Softcap: elementwise,
    Gate: gate,
    Slice: slice,
    SelectRows: select_rows,
    RopeTable: rope,
    Rope: rope,
    Attention: attention,
    Scale: paths,
    BinaryMatmul: paths,
    ResidualBinary: residual_binary,
    ResidualSign: residual_sign,
    PackSigns: pack,
    PackScales: pack,
    Concat: pack,
    Cast: cast,
    Int8Data: int8,
    Int8Scale: int8,
    Matmul: matmul,
    MatmulTn: matmul,
    SumRows: sums,
    WeightedSum: sums,
    ScatterAdd: scatter_add,
    PadColumns: slice,
    ActivationGrad: elementwise_grad,
    SoftcapGrad: elementwise_grad,
    GateGrad: elementwise_grad,
    RmsNormGrad: rms_norm_grad,
    RmsNormWeightGrad: rms_norm_grad,
    RopeGrad: rope,
    AttentionTrain: attention_train,
    AttentionLse: attention_train,
    AttentionTrainGrad: attention_train_grad,
    KlDivergence: kl_divergence,
    KlDivergenceGrad: kl_divergence,
    CrossEntropy: cross_entropy,
    CrossEntropyGrad: cross_entropy,
    Sample: sample,
    SquaredError: squared_error,
    SquaredErrorGrad: squared_error,
    Round: round,
    EffectiveWeight: effective_weight,
    EffectiveScaleGrad: effective_weight,
}

/// The ops that are evaluated when an artifact is written, as a pattern. A match over all ops that
/// treats them alike names them once and stays exhaustive.
#[macro_export]
macro_rules! compile_time_ops {
    () => {
        $crate::Op::Weight(_)
            | $crate::Op::Const(_)
            | $crate::Op::ResidualSign(_)
            | $crate::Op::PackSigns(_)
            | $crate::Op::PackScales(_)
            | $crate::Op::Concat(_)
            | $crate::Op::Cast(_)
            | $crate::Op::Int8Data(_)
            | $crate::Op::Int8Scale(_)
    };
}

/// The ops that stand in training graphs only, as a pattern like
/// [`compile_time_ops!`](crate::compile_time_ops!).
#[macro_export]
macro_rules! training_ops {
    () => {
        $crate::Op::Matmul(_)
            | $crate::Op::MatmulTn(_)
            | $crate::Op::SumRows(_)
            | $crate::Op::WeightedSum(_)
            | $crate::Op::ScatterAdd(_)
            | $crate::Op::PadColumns(_)
            | $crate::Op::ActivationGrad(_)
            | $crate::Op::SoftcapGrad(_)
            | $crate::Op::GateGrad(_)
            | $crate::Op::RmsNormGrad(_)
            | $crate::Op::RmsNormWeightGrad(_)
            | $crate::Op::RopeGrad(_)
            | $crate::Op::AttentionTrain(_)
            | $crate::Op::AttentionLse(_)
            | $crate::Op::AttentionTrainGrad(_)
            | $crate::Op::KlDivergence(_)
            | $crate::Op::KlDivergenceGrad(_)
            | $crate::Op::CrossEntropy(_)
            | $crate::Op::CrossEntropyGrad(_)
            | $crate::Op::Sample(_)
            | $crate::Op::SquaredError(_)
            | $crate::Op::SquaredErrorGrad(_)
            | $crate::Op::Round(_)
            | $crate::Op::EffectiveWeight(_)
            | $crate::Op::EffectiveScaleGrad(_)
    };
}
