//! Text as tokens, cut into sequences.

use std::path::{Path, PathBuf};

use rabitc_frontend::Checkpoint;
use rabitc_runtime::tokenizer::Tokenizer;
use rabitc_runtime::tokenizer_config::TokenizerConfig;

use crate::error::TrainError;

/// The tokens of some files. No sequence crosses from one file into another.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Tokens of each file, below the vocabulary's size.
    files: Vec<Vec<i32>>,
    /// The files' names, for messages.
    names: Vec<PathBuf>,
}

/// A token of a corpus: which file, and which of its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: u32,
    token: u32,
}

/// A sequence of a corpus: which file, and where in it the first token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    file: usize,
    begin: usize,
}

impl Window {
    /// Where it begins.
    pub fn place(self) -> Place {
        Place {
            file: self.file as u32,
            token: self.begin as u32,
        }
    }
}

impl Corpus {
    /// Reads text files in UTF-8 and turns each into tokens, without any that mark the beginning
    /// or end of a text.
    ///
    /// # Errors
    /// A checkpoint without tokenizer, a file that cannot be read or is no text, or a token that
    /// the model's vocabulary of `vocab` tokens does not have.
    pub fn read(
        checkpoint: &Checkpoint,
        vocab: usize,
        paths: &[PathBuf],
    ) -> Result<Corpus, TrainError> {
        let tokenizer = tokenizer(checkpoint)?;
        let files = paths.iter().map(|path| tokenize(&tokenizer, vocab, path));
        Ok(Corpus {
            files: files.collect::<Result<_, _>>()?,
            names: paths.to_vec(),
        })
    }

    /// A corpus of tokens that are there already; `names` are for messages.
    pub fn of_tokens(files: Vec<Vec<i32>>, names: Vec<PathBuf>) -> Corpus {
        Corpus { files, names }
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.files.iter().map(Vec::len).sum()
    }

    /// A hash of all tokens, file by file, by which a text is recognised.
    pub fn hash(&self) -> String {
        let mut bytes = Vec::with_capacity(self.tokens() * 4 + self.files.len() * 8);
        for file in &self.files {
            bytes.extend((file.len() as u64).to_le_bytes());
            bytes.extend(file.iter().flat_map(|id| id.to_le_bytes()));
        }
        rabitc_rbx::hash_hex(&bytes)
    }

    /// The sequences of `len` tokens, one after the other without overlap, that have one more
    /// token after them, from token `offset` of every file on.
    pub fn windows(&self, len: usize, offset: usize) -> Vec<Window> {
        let files = self.files.iter().enumerate();
        files
            .flat_map(|(file, ids)| {
                let count = ids.len().saturating_sub(offset.saturating_add(1)) / len;
                (0..count).map(move |n| Window {
                    file,
                    begin: offset + n * len,
                })
            })
            .collect()
    }

    /// The windows from the beginning of every file.
    ///
    /// # Errors
    /// Fewer than `least` of them: the error says how many tokens there are and are needed.
    pub fn at_least(&self, len: usize, least: usize) -> Result<Vec<Window>, TrainError> {
        let windows = self.windows(len, 0);
        if windows.len() >= least {
            return Ok(windows);
        }
        let names: Vec<_> = self.names.iter().map(|n| n.display().to_string()).collect();
        let (names, tokens, found) = (names.join(", "), self.tokens(), windows.len());
        Err(TrainError::Setting(format!(
            "{names}: {tokens} tokens make {found} sequences of {len}, but {least} are needed: \
             give more text, or smaller or fewer sequences"
        )))
    }

    /// All places, in order.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let files = self.files.iter().enumerate();
        files.flat_map(|(file, ids)| {
            (0..ids.len()).map(move |token| Place {
                file: file as u32,
                token: token as u32,
            })
        })
    }

    /// The tokens before a place, nearest first.
    pub fn before(&self, place: Place) -> impl Iterator<Item = i32> {
        let ids = &self.files[place.file as usize][..place.token as usize];
        ids.iter().rev().copied()
    }

    /// The tokens from a place on, `len` of them if the file has as many.
    pub fn at(&self, place: Place, len: usize) -> &[i32] {
        let ids = &self.files[place.file as usize][place.token as usize..];
        &ids[..len.min(ids.len())]
    }

    /// The tokens of a sequence.
    pub fn ids(&self, window: Window, len: usize) -> &[i32] {
        &self.files[window.file][window.begin..window.begin + len]
    }

    /// The tokens that follow those of a sequence.
    pub fn labels(&self, window: Window, len: usize) -> &[i32] {
        &self.files[window.file][window.begin + 1..window.begin + 1 + len]
    }
}

/// The inputs of a graph that reads whole sequences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids, sequence after sequence.
    pub ids: Vec<i32>,
    /// 0, 1, 2, … of every sequence.
    pub positions: Vec<i32>,
    /// The token after each.
    pub labels: Vec<i32>,
}

impl Batch {
    /// The inputs of these sequences of `len` tokens.
    pub fn new(corpus: &Corpus, windows: &[Window], len: usize) -> Batch {
        let mut batch = Batch::default();
        for window in windows {
            batch.ids.extend(corpus.ids(*window, len));
            batch.labels.extend(corpus.labels(*window, len));
            batch.positions.extend(0..len as i32);
        }
        batch
    }

    /// Adds a sequence and the token after it.
    pub fn push(&mut self, tokens: &[i32]) {
        let len = tokens.len().saturating_sub(1);
        self.ids.extend(&tokens[..len]);
        self.labels.extend(tokens.get(1..).unwrap_or_default());
        self.positions.extend(0..len as i32);
    }

    /// The inputs by the names that graphs have for them.
    pub fn inputs(&self) -> [(&'static str, &[i32]); 3] {
        [
            ("ids", &self.ids),
            ("positions", &self.positions),
            ("labels", &self.labels),
        ]
    }
}

/// The tokenizer of a checkpoint.
fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, TrainError> {
    let side = checkpoint.side();
    let Some(json) = side.tokenizer()? else {
        let reason = "has no tokenizer.json, without which text cannot be read";
        return Err(TrainError::file(checkpoint.folder(), reason));
    };
    let config = match side.tokenizer_config()? {
        Some(text) => TokenizerConfig::from_bytes(text.as_bytes())?,
        None => TokenizerConfig::default(),
    };
    Ok(Tokenizer::from_bytes(json.as_bytes(), &config)?)
}

fn tokenize(tokenizer: &Tokenizer, vocab: usize, path: &Path) -> Result<Vec<i32>, TrainError> {
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        TrainError::file(path, format!("is no UTF-8 text (byte {at})"))
    })?;
    let ids = tokenizer.encode(&text, false)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        let reason = format!(
            "the tokenizer gives token {id}, the model has {vocab}: they do not belong together"
        );
        return Err(TrainError::file(path, reason));
    }
    Ok(ids.into_iter().map(|id| id as i32).collect())
}
