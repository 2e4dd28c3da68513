//! What the comments of a file test say.

use std::collections::BTreeMap;

use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::{HeadForm, Options, Pattern};
use rabitc_rbx::SmArch;

/// A file test: its text and what its comments say.
#[derive(Debug)]
pub struct FileTest {
    /// The whole file.
    pub text: String,
    /// Whether the verifier must accept the graph.
    pub verify: bool,
    /// The passes to run, in order.
    pub passes: Vec<String>,
    /// Whether the graph is run.
    pub run: bool,
    /// The GPU that kernels are emitted for, if any.
    pub emit: Option<SmArch>,
    /// What the names of the kernels begin with whose text is shown.
    pub show: Vec<String>,
    /// Options of the passes.
    pub options: Options,
    /// Values of inputs: one list a step.
    pub inputs: BTreeMap<String, Vec<Vec<f64>>>,
    /// Values of weights.
    pub weights: BTreeMap<String, Vec<f64>>,
    /// Expected errors: line from 1, and text.
    pub errors: Vec<(usize, String)>,
}

impl FileTest {
    /// Reads the comments of `text`; the error names the line.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut test = FileTest {
            text: text.to_string(),
            verify: false,
            passes: Vec::new(),
            run: false,
            emit: None,
            show: Vec::new(),
            options: Options::default(),
            inputs: BTreeMap::new(),
            weights: BTreeMap::new(),
            errors: Vec::new(),
        };
        let mut commands = 0;
        for (index, line) in text.lines().enumerate() {
            let at = |e: String| format!("line {}: {e}", index + 1);
            if let Some((_, error)) = line.split_once("# error: ") {
                test.errors.push((index + 1, error.to_string()));
            }
            let Some(comment) = line.strip_prefix("# ") else {
                continue;
            };
            let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
            match word {
                "test" => {
                    commands += 1;
                    test.command(rest).map_err(at)?;
                }
                "option" => rest
                    .split_whitespace()
                    .try_for_each(|word| option(&mut test.options, word))
                    .map_err(at)?,
                "show" => test.show.extend(rest.split_whitespace().map(String::from)),
                "input" => {
                    let (name, steps) = values(rest).map_err(at)?;
                    test.inputs.insert(name, steps);
                }
                "weight" => {
                    let (name, mut steps) = values(rest).map_err(at)?;
                    test.weights.insert(name, steps.swap_remove(0));
                }
                _ => {}
            }
        }
        match commands {
            1 => Ok(test),
            n => Err(format!("{n} lines that start with `# test `, expected one")),
        }
    }

    fn command(&mut self, words: &str) -> Result<(), String> {
        for word in words.split_whitespace() {
            if let Some(arch) = word.strip_prefix("emit=cuda:") {
                (self.verify, self.emit) = (true, Some(arch.parse()?));
                continue;
            }
            match (word, word.strip_prefix("pass=")) {
                ("parse", _) => {}
                ("verify", _) => self.verify = true,
                ("run", _) => (self.verify, self.run) = (true, true),
                (_, Some(list)) => {
                    let all = rabitc_passes::PASSES.iter().map(|p| p.name.to_string());
                    self.verify = true;
                    self.passes = match list {
                        "all" => all.collect(),
                        _ => list.split(',').map(String::from).collect(),
                    };
                }
                _ => return Err(format!("unknown command `{word}`")),
            }
        }
        let mut passes = self.passes.iter();
        match passes.find(|p| rabitc_passes::find(p).is_none()) {
            Some(pass) => Err(format!("no pass `{pass}`")),
            None => Ok(()),
        }
    }
}

/// One `name=value` of an option line.
fn option(options: &mut Options, word: &str) -> Result<(), String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
    match name {
        "paths" => options.paths = number(value)?,
        "keep" if value.is_empty() => options.keep_dense = true,
        "keep" => options.keep_dense_layers.push(Pattern::new(value)),
        "activations" => options.activations = value.parse::<Activations>()?,
        "head" => {
            options.head = match (value, value.strip_prefix("paths:")) {
                ("bf16", _) => HeadForm::Bf16,
                ("int8", _) => HeadForm::Int8,
                (_, Some(paths)) => HeadForm::Paths(number(paths)?),
                _ => return Err(format!("unknown head `{value}`")),
            }
        }
        _ => return Err(format!("unknown option `{name}`")),
    }
    Ok(())
}

/// `name = [1, 2] / [3]`: a name and lists of numbers.
fn values(text: &str) -> Result<(String, Vec<Vec<f64>>), String> {
    let (name, lists) = text.split_once(" = ").ok_or("expected `name = [..]`")?;
    let list = |list: &str| -> Result<Vec<f64>, String> {
        let list = list.trim();
        let inside = list.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
        let inside = inside.ok_or_else(|| format!("`{list}` is no list"))?;
        let items = inside.split(',').map(str::trim).filter(|s| !s.is_empty());
        items
            .map(|n| n.parse().map_err(|_| format!("`{n}` is no number")))
            .collect()
    };
    let lists: Result<Vec<_>, _> = lists.split('/').map(list).collect();
    Ok((name.to_string(), lists?))
}

#[test]
fn mistakes_in_a_test_are_errors() {
    let error = |text: &str| FileTest::new(text).expect_err(text);
    assert_eq!(error(""), "0 lines that start with `# test `, expected one");
    assert_eq!(
        error("# test verify\n# test run"),
        "2 lines that start with `# test `, expected one"
    );
    assert_eq!(error("# test fly"), "line 1: unknown command `fly`");
    assert_eq!(error("# test pass=fuse"), "line 1: no pass `fuse`");
    assert_eq!(
        error("# test emit=cuda:sm_20"),
        "line 1: sm_20 is older than sm_80, or unknown"
    );
    assert_eq!(
        error("# test run\n# option head=x"),
        "line 2: unknown head `x`"
    );
    assert_eq!(
        error("# test run\n# input x [1]"),
        "line 2: expected `name = [..]`"
    );
    assert_eq!(
        error("# test run\n# weight x = 1"),
        "line 2: `1` is no list"
    );
    assert_eq!(
        error("# test run\n# weight x = [a]"),
        "line 2: `a` is no number"
    );
}
