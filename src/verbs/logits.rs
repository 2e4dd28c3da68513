//! `rabitc logits`: the logits of given token ids, for comparison with any other program.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rabitc_files::AtomicFile;
use rabitc_runtime::Session;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::open::{self, DeviceArgs, ThreadArgs};
use crate::ui::{self, Unit};

/// Write the logits of token ids to a safetensors file
///
/// Reads the tensor `input_ids` [n, T] (I32 or I64) from IDS.safetensors: n sequences of T tokens,
/// each read from an empty context, exactly as given. Writes `logits` [n, T, vocab] (F32): row t
/// holds what the model predicts after tokens 0 to t. Other tensors of IDS.safetensors are left
/// alone. The output appears under its name only when it is complete.
///
/// Tokens are read in blocks; with --decode one at a time, through the kernels that generation
/// uses. Both should agree up to rounding.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The artifact
    model: PathBuf,
    /// A safetensors file with `input_ids`
    ids: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Read one token at a time, as generation does
    #[arg(long)]
    decode: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = "\
Examples:
  rabitc logits model.rbx ids.safetensors -o logits.safetensors
  rabitc logits model.rbx ids.safetensors -o decoded.safetensors --decode

In Python:
  save_file({\"input_ids\": numpy.array([[1, 2, 3]])}, \"ids.safetensors\")
  logits = load_file(\"logits.safetensors\")[\"logits\"]";

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let model = open::model(&args.model, args.device)?;
    let vocab = model.manifest().model.vocab_size;
    let input = Input::read(&args.ids, vocab)?;
    let limit = model.manifest().model.context_length;
    if input.length > limit {
        let (path, length) = (args.ids.display(), input.length);
        bail!("{path}: sequences of {length} tokens, the model was made for at most {limit}");
    }
    let pool = args.threads.pool()?;
    let mut session = open::session(&model, &pool, input.length)?;
    let shape = [input.ids.len() / input.length, input.length, vocab];
    let mut output = Output::create(&args.output, shape)?;
    let block = match args.decode {
        true => 1,
        false => session.max_tokens(),
    };
    let bar = ui::progress(input.ids.len() as u64, Unit::Items, "computing logits");
    for sequence in input.ids.chunks(input.length) {
        session.rewind(0);
        for ids in sequence.chunks(block) {
            output.rows(all_rows(&mut session, ids)?)?;
            bar.inc(ids.len() as u64);
        }
    }
    bar.finish_and_clear();
    output.finish()
}

/// Reads `ids` and gives the logits of each, `[len(ids), vocab]`.
fn all_rows<'a>(session: &'a mut Session, ids: &[u32]) -> Result<&'a [f32]> {
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    Ok(session.step(ids, &rows)?)
}

/// Sequences of token ids.
#[derive(Debug, PartialEq)]
struct Input {
    /// All sequences, one after the other.
    ids: Vec<u32>,
    /// Tokens of each; at least 1.
    length: usize,
}

impl Input {
    /// Reads and checks `input_ids`.
    fn read(path: &Path, vocab: usize) -> Result<Input> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Input::parse(&bytes, vocab).with_context(|| path.display().to_string())
    }

    fn parse(bytes: &[u8], vocab: usize) -> Result<Input> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|e| anyhow::anyhow!("not a safetensors file, or damaged: {e}"))?;
        let Ok(tensor) = tensors.tensor("input_ids") else {
            bail!("holds no tensor `input_ids`, but {}", some(tensors.names()));
        };
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        let length = match shape {
            &[sequences, length] if sequences > 0 && length > 0 => length,
            _ => bail!("`input_ids` has shape {shape:?}, expected [n, T] with n and T at least 1"),
        };
        let numbers: Vec<i64> = match dtype {
            Dtype::I32 => integers(tensor.data(), |b| i32::from_le_bytes(b).into()),
            Dtype::I64 => integers(tensor.data(), i64::from_le_bytes),
            _ => bail!("`input_ids` is {dtype:?}, expected I32 or I64"),
        };
        let ids = numbers.iter().enumerate().map(|(n, &number)| {
            let id = u32::try_from(number)
                .ok()
                .filter(|id| (*id as usize) < vocab);
            let (row, column) = (n / length, n % length);
            id.with_context(|| {
                format!(
                    "`input_ids`[{row}, {column}] is {number}, the ids are 0 to {}",
                    vocab.saturating_sub(1)
                )
            })
        });
        Ok(Input {
            ids: ids.collect::<Result<_>>()?,
            length,
        })
    }
}

/// The first of these names, and how many there are beside them.
fn some(mut names: Vec<&str>) -> String {
    const MOST: usize = 4;
    names.sort_unstable();
    let shown = names.iter().take(MOST).map(|name| format!("`{name}`"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no tensor at all".into(),
        1..=MOST => shown,
        n => format!("{shown} and {} more", n - MOST),
    }
}

/// Little-endian integers of `N` bytes.
fn integers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|chunk| read(*chunk))
        .collect()
}

/// A safetensors file with one tensor, written row by row under a temporary name.
struct Output {
    file: AtomicFile,
    bytes: Vec<u8>,
}

impl Output {
    fn create(path: &Path, shape: [usize; 3]) -> Result<Output> {
        let name = || path.display().to_string();
        let header = header(shape).with_context(name)?;
        let mut file = AtomicFile::create(path).with_context(name)?;
        file.write_all(&header).with_context(name)?;
        Ok(Output {
            file,
            bytes: Vec::new(),
        })
    }

    fn rows(&mut self, logits: &[f32]) -> Result<()> {
        self.bytes.clear();
        self.bytes
            .extend(logits.iter().flat_map(|l| l.to_le_bytes()));
        let written = self.file.write_all(&self.bytes);
        written.with_context(|| self.file.target().display().to_string())
    }

    /// Gives the file its name.
    fn finish(self) -> Result<()> {
        let name = self.file.target().display().to_string();
        self.file.finish().context(name)
    }
}

/// The beginning of the file: the header's length, and the header, padded so that data is aligned.
fn header(shape: [usize; 3]) -> Result<Vec<u8>> {
    let bytes = shape
        .iter()
        .try_fold(4usize, |bytes, n| bytes.checked_mul(*n));
    let Some(bytes) = bytes else {
        bail!("logits of shape {shape:?} are larger than any file");
    };
    let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [0, bytes]});
    let mut header = json!({ "logits": tensor }).to_string();
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": [0, data.len()]});
        let header = json!({ "input_ids": tensor }).to_string();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out
    }

    /// A file with so many tensors, none of them of ids.
    fn named(count: usize) -> Vec<u8> {
        let tensors = (0..count).map(|n| {
            let tensor = json!({"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]});
            (format!("t{n}"), tensor)
        });
        let header = serde_json::Value::Object(tensors.collect()).to_string();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(header.as_bytes());
        out.resize(out.len() + count, 0);
        out
    }

    fn i64s(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn both_integer_types_are_read() {
        let expected = Input {
            ids: vec![1, 2, 3, 4],
            length: 2,
        };
        let wide = file("I64", &[2, 2], &i64s(&[1, 2, 3, 4]));
        assert_eq!(Input::parse(&wide, 5).unwrap(), expected);
        let narrow: Vec<u8> = [1i32, 2, 3, 4]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        assert_eq!(
            Input::parse(&file("I32", &[2, 2], &narrow), 5).unwrap(),
            expected
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (bytes, words) in [
            (
                file("I64", &[1, 2], &i64s(&[0, 5])),
                "[0, 1] is 5, the ids are 0 to 4",
            ),
            (file("I64", &[2, 1], &i64s(&[0, -1])), "[1, 0] is -1"),
            (file("I64", &[2], &i64s(&[0, 1])), "shape [2]"),
            (file("I64", &[0, 2], &[]), "shape [0, 2]"),
            (file("F32", &[1, 1], &[0; 4]), "is F32"),
            (named(1), "no tensor `input_ids`, but `t0`"),
            (named(9), "but `t0`, `t1`, `t2`, `t3` and 5 more"),
            (b"no file".to_vec(), "not a safetensors file"),
        ] {
            let error = format!("{:#}", Input::parse(&bytes, 5).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_header_is_aligned_and_sizes_are_checked() {
        let header = header([2, 3, 5]).unwrap();
        assert!(header.len().is_multiple_of(8));
        let file = [header, vec![0; 2 * 3 * 5 * 4]].concat();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(tensors.tensor("logits").unwrap().shape(), [2, 3, 5]);
        assert!(super::header([usize::MAX, 2, 2]).is_err());
    }
}
