//! The graphs that training runs: a step, a validation, and what the teacher is examined with.
//!
//! In all of them the teacher's nodes and weights have [`TEACHER`] before their names.

mod diversity;
mod examined;

use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::kl_divergence::KlDivergence;
use rabitc_ir::ops::sample::Sample;
use rabitc_ir::ops::source::Input;
use rabitc_ir::ops::squared_error::SquaredError;
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{DType, Dim, Graph, GraphError, NodeId, Op, Type};
use rabitc_passes::Pattern;
use rabitc_passes::autodiff::training::{Binary, BinaryLayer, Form, append, binarize, form};
use rabitc_passes::autodiff::{Differentiate, autodiff};
use rabitc_passes::pass::binarize::unmatched;

pub use examined::{calibration, path_outputs, path_weight};

use crate::error::TrainError;
use crate::noise::teacher::{DRAWS, TOKENS};
use crate::recipe::{Recipe, Stage};

/// What stands before the names of the teacher's nodes and weights.
pub const TEACHER: &str = "teacher.";

/// The type that scales are stored in, and that the forward pass rounds them to.
pub const SCALES: DType = DType::F16;

/// A student: its forward graph, and which layers are residual-binary.
#[derive(Clone, Debug)]
pub struct Student {
    /// Inputs ids and positions, output logits.
    pub graph: Graph,
    /// The layers with latent weights.
    pub layers: Vec<BinaryLayer>,
}

/// The student of a model in one stage of a run, for sequences of `seq_len` tokens.
///
/// # Errors
/// A model with no linear layer left to be binarized, or one that is residual-binary already.
pub fn student(
    model: &Graph,
    recipe: &Recipe,
    stage: &Stage,
    seq_len: usize,
) -> Result<Student, TrainError> {
    refuse_binary(model)?;
    let weights = Some(recipe.dtype());
    let mut graph = form(model, &Form { seq_len, weights })?;
    let kept: Vec<Pattern> = recipe.keep_dense.iter().map(|p| Pattern::new(p)).collect();
    if let Some(pattern) = unmatched(&graph, &kept) {
        let pattern = pattern.text();
        let reason = format!("no dense linear layer has a name that matches `{pattern}`");
        return Err(TrainError::Setting(reason));
    }
    let binary = Binary {
        paths: stage.paths,
        derive: recipe.derive(),
        frozen: stage.frozen,
        scales: SCALES,
    };
    let layers = binarize(&mut graph, &binary, |name| recipe.binarizes(name))?;
    match layers.is_empty() {
        false => Ok(Student { graph, layers }),
        true => Err(TrainError::Setting(
            "no linear layer is left to be binarized: fewer must be kept dense".into(),
        )),
    }
}

/// A teacher is dense: its layers are what the student's approximate.
fn refuse_binary(model: &Graph) -> Result<(), TrainError> {
    let ids = model.order().into_iter();
    let binary = |id: &NodeId| matches!(model.op(*id), Op::BinaryMatmul(_));
    match ids.into_iter().find(binary) {
        None => Ok(()),
        Some(id) => Err(TrainError::Setting(format!(
            "the teacher's %{} is residual-binary already: a teacher is dense",
            model.node(id).name
        ))),
    }
}

/// The student's weights, in order of use: each name once, with its type.
pub fn weights(graph: &Graph) -> Vec<(String, Type)> {
    let mut out: Vec<(String, Type)> = Vec::new();
    for id in graph.order() {
        if let Op::Weight(weight) = graph.op(id)
            && out.iter().all(|(name, _)| *name != weight.name)
        {
            out.push((weight.name.clone(), weight.ty.clone()));
        }
    }
    out
}

/// The nodes after each block, in order.
fn block_outputs(graph: &Graph) -> Vec<String> {
    let names = (0..).map(|layer| format!("model.layers.{layer}.mlp.residual"));
    names
        .take_while(|name| graph.find(name).is_some())
        .collect()
}

/// Student and teacher side by side in one graph without outputs.
struct Pair {
    graph: Graph,
    student: NodeId,
    teacher: NodeId,
}

fn pair(name: &str, student: &Graph, teacher: &Graph) -> Result<Pair, TrainError> {
    let mut graph = Graph::new(name);
    let mut side = |model: &Graph, prefix: &str| {
        let outputs = append(&mut graph, model, prefix)?;
        logits(&outputs)
    };
    let (student, teacher) = (side(student, "")?, side(teacher, TEACHER)?);
    Ok(Pair {
        graph,
        student,
        teacher,
    })
}

fn logits(outputs: &[(String, NodeId)]) -> Result<NodeId, TrainError> {
    let found = outputs.iter().find(|(name, _)| name == "logits");
    let missing = || TrainError::Setting("the model's graph has no output `logits`".into());
    found.map(|(_, id)| *id).ok_or_else(missing)
}

/// The teacher's graph for sequences of `seq_len` tokens, in its own precision.
fn whole(model: &Graph, seq_len: usize) -> Result<Graph, GraphError> {
    let weights = None;
    form(model, &Form { seq_len, weights })
}

/// The input with the token that follows each.
fn labels(graph: &mut Graph) -> Result<NodeId, GraphError> {
    let (name, ty) = ("labels".to_string(), Type::new(DType::I32, [Dim::Tokens]));
    let fresh = graph.fresh_name("labels");
    graph.add(&fresh, Input { name, ty }, &[])
}

/// One training step: outputs `loss`, its parts `kl`, `hidden` and, where they have factors, `text`
/// and `diversity`, and the gradients of the weights `trained`.
///
/// loss = KL(teacher ‖ student) + γ · hidden + α · text + λ · diversity, where `hidden` is the mean
/// over blocks of the squared error of the student's hidden state after the block, normalised as
/// the recipe says, `text` the cross-entropy with the text, and `diversity` the mean over layers
/// of the overlap of their paths' outputs.
pub fn step(
    student: &Student,
    model: &Graph,
    recipe: &Recipe,
    trained: &[String],
) -> Result<Graph, TrainError> {
    let mut pair = pair("step", &student.graph, &whole(model, recipe.seq_len)?)?;
    let kl = divergence(&mut pair)?;
    let hidden = hidden_error(&mut pair.graph, recipe)?;
    let graph = &mut pair.graph;
    let mut terms = vec![("kl", 1.0, kl)];
    if recipe.loss.hidden > 0.0 {
        terms.push(("hidden", recipe.loss.hidden, hidden));
    }
    if recipe.loss.text > 0.0 {
        let labels = labels(graph)?;
        let text = graph.add("loss.text", CrossEntropy {}, &[pair.student, labels])?;
        terms.push(("text", recipe.loss.text, text));
    }
    if recipe.loss.diversity > 0.0 {
        let overlap = diversity::diversity(graph, &student.layers)?;
        terms.push(("diversity", recipe.loss.diversity, overlap));
    }
    let factors = terms.iter().map(|(_, factor, _)| *factor).collect();
    let parts: Vec<_> = terms.iter().map(|(_, _, id)| *id).collect();
    let loss = graph.add("loss", WeightedSum { factors }, &parts)?;
    graph.set_output("loss", loss);
    terms
        .iter()
        .for_each(|(name, _, id)| graph.set_output(name, *id));
    if recipe.loss.hidden == 0.0 {
        // Measured all the same, but no part: 0 times what is not finite would be no number.
        graph.set_output("hidden", hidden);
    }
    let request = Differentiate {
        loss: "loss".into(),
        weights: trained.to_vec(),
        values: Vec::new(),
        checkpoint_activations: recipe.checkpoint_activations,
    };
    autodiff(graph, &request)?;
    Ok(pair.graph)
}

fn divergence(pair: &mut Pair) -> Result<NodeId, GraphError> {
    let operands = [pair.teacher, pair.student];
    pair.graph.add("loss.kl", KlDivergence {}, &operands)
}

/// The mean over blocks of the hidden states' normalised squared error.
fn hidden_error(graph: &mut Graph, recipe: &Recipe) -> Result<NodeId, TrainError> {
    let normalize = recipe.normalize();
    let blocks = block_outputs(graph);
    let mut errors = Vec::with_capacity(blocks.len());
    for (i, name) in blocks.iter().enumerate() {
        let pair = [name.clone(), format!("{TEACHER}{name}")];
        let [Some(x), Some(target)] = pair.map(|name| graph.find(&name)) else {
            let what = format!("the teacher has no node for the student's %{name}");
            return Err(TrainError::Setting(what));
        };
        let name = format!("loss.hidden.{i}");
        errors.push(graph.add(&name, SquaredError { normalize }, &[x, target])?);
    }
    if errors.is_empty() {
        return Err(TrainError::Setting("the model has no blocks".into()));
    }
    let factors = vec![1.0 / errors.len() as f32; errors.len()];
    Ok(graph.add("loss.hidden", WeightedSum { factors }, &errors)?)
}

/// A measurement over windows of `window` tokens: outputs `kl`, the mean KL(teacher ‖ student),
/// and `nll` and `teacher_nll`, the mean −ln probability of the text's next token, in nats.
pub fn validation(student: &Student, model: &Graph, window: usize) -> Result<Graph, TrainError> {
    let mut pair = pair("validation", &student.graph, &whole(model, window)?)?;
    let kl = divergence(&mut pair)?;
    let graph = &mut pair.graph;
    let labels = labels(graph)?;
    let nll = graph.add("nll", CrossEntropy {}, &[pair.student, labels])?;
    let theirs = graph.add("teacher_nll", CrossEntropy {}, &[pair.teacher, labels])?;
    for (name, id) in [("kl", kl), ("nll", nll), ("teacher_nll", theirs)] {
        graph.set_output(name, id);
    }
    Ok(pair.graph)
}

/// The teacher alone over sequences of `seq_len` tokens: output [`TOKENS`], a token for each, drawn
/// from what it says of the next one by the input [`DRAWS`].
pub fn writing(model: &Graph, seq_len: usize) -> Result<Graph, TrainError> {
    let mut graph = Graph::new("writing");
    let outputs = append(&mut graph, &whole(model, seq_len)?, TEACHER)?;
    let (name, ty) = (DRAWS.to_string(), Type::new(DType::I32, [Dim::Tokens]));
    let draws = graph.add(DRAWS, Input { name, ty }, &[])?;
    let tokens = graph.add(TOKENS, Sample {}, &[logits(&outputs)?, draws])?;
    graph.set_output(TOKENS, tokens);
    Ok(graph)
}
