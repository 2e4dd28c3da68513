//! What the passes are told.

use rabitc_ir::ops::residual_binary::Activations;

use crate::tiles::Tiles;

/// The form of the LM head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadForm {
    /// Dense, as the checkpoint has it.
    AsStored,
    /// Dense, rounded to bf16.
    Bf16,
    /// int8 with one scale a row.
    Int8,
    /// Residual-binary with this many paths.
    Paths(usize),
}

/// Options of the passes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Binary paths of a binarized layer, 1 to 8.
    pub paths: usize,
    /// Leave every dense layer dense.
    pub keep_dense: bool,
    /// Leave dense layers whose name matches dense.
    pub keep_dense_layers: Vec<Pattern>,
    /// The form of the LM head.
    pub head: HeadForm,
    /// The format of the activations that residual-binary products read.
    pub activations: Activations,
    /// How tiles are chosen.
    pub tiles: Tiles,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            paths: 2,
            keep_dense: false,
            keep_dense_layers: Vec::new(),
            head: HeadForm::AsStored,
            activations: Activations::Int8,
            tiles: Tiles::default(),
        }
    }
}

/// A pattern over layer names: `*` stands for any text, `?` for one character; a pattern without
/// either matches any name that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern from its text.
    pub fn new(text: &str) -> Self {
        Pattern(match text.contains(['*', '?']) {
            true => text.to_string(),
            false => format!("*{text}*"),
        })
    }

    /// The pattern's text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) =
            (self.0.chars().collect(), name.chars().collect());
        // Backtracks to the last star only: linear in practice, quadratic at worst.
        let (mut p, mut n, mut star) = (0, 0, None);
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match star {
                    Some((at, from)) => {
                        p = at + 1;
                        n = from + 1;
                        star = Some((at, n));
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_match_as_documented() {
        let name = "model.layers.10.self_attn.q_proj";
        for yes in ["q_proj", "*.q_proj", "model.layers.1?.*", "*", "layers.10."] {
            assert!(Pattern::new(yes).matches(name), "{yes}");
        }
        for no in ["k_proj", "q_pro?.", "layers.1.", "?", "*q_proj."] {
            assert!(!Pattern::new(no).matches(name), "{no}");
        }
    }
}
