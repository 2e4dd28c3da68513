//! Parsing and checking the header of one safetensors file.
//!
//! Nothing the header says is believed before it is held against the length of the file, and no
//! buffer is ever sized by it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::tensor::TensorInfo as Entry;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// The longest header that is accepted, in bytes: the limit of the safetensors format.
const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions a tensor may have.
const MAX_RANK: usize = 16;
/// Bytes of the length that stands before the header.
const LENGTH_BYTES: usize = 8;

/// What is wrong with a header; `tensor` is set where the fault lies in one entry.
#[derive(Debug, PartialEq)]
pub(crate) struct HeaderError {
    pub tensor: Option<String>,
    pub reason: String,
}

impl HeaderError {
    fn file(reason: impl Into<String>) -> Self {
        HeaderError {
            tensor: None,
            reason: reason.into(),
        }
    }
    fn tensor(name: &str, reason: impl Into<String>) -> Self {
        HeaderError {
            tensor: Some(name.to_string()),
            reason: reason.into(),
        }
    }
}

/// The entries of a header whose every tensor lies inside the file.
#[derive(Debug)]
pub(crate) struct Header {
    /// Tensors by name; offsets are relative to `data_start`.
    pub tensors: BTreeMap<String, Entry>,
    /// What `__metadata__` says.
    pub metadata: BTreeMap<String, String>,
    /// Where the data begins in the file.
    pub data_start: usize,
}

impl Header {
    /// Parses and checks the header of a whole safetensors file.
    pub fn parse(file: &[u8]) -> Result<Header, HeaderError> {
        let (json, data_start) = split(file)?;
        let text = std::str::from_utf8(json)
            .map_err(|e| HeaderError::file(format!("the header is not UTF-8: {e}")))?;
        let Entries { entries, metadata } = serde_json::from_str(text)
            .map_err(|e| HeaderError::file(format!("the header is not valid: {e}")))?;
        check_names(&entries)?;
        for (name, entry) in &entries {
            check_entry(name, entry, file.len() - data_start)?;
        }
        check_cover(&entries, file.len() - data_start)?;
        Ok(Header {
            tensors: entries.into_iter().collect(),
            metadata,
            data_start,
        })
    }
}

/// The header's JSON and the offset of the first byte after it.
fn split(file: &[u8]) -> Result<(&[u8], usize), HeaderError> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        let found = file.len();
        return Err(HeaderError::file(format!(
            "not a safetensors file: {found} bytes, a header length alone takes {LENGTH_BYTES}"
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(HeaderError::file(format!(
            "not a safetensors file: it claims a header of {length} bytes, the limit is {MAX_HEADER}"
        )));
    }
    let length = length as usize;
    let json = rest.get(..length).ok_or_else(|| {
        HeaderError::file(format!(
            "truncated: the header takes {length} bytes, the file holds {} after its length",
            rest.len()
        ))
    })?;
    Ok((json, LENGTH_BYTES + length))
}

fn check_names(entries: &[(String, Entry)]) -> Result<(), HeaderError> {
    let mut seen = HashSet::with_capacity(entries.len());
    for (name, _) in entries {
        if !seen.insert(name.as_str()) {
            return Err(HeaderError::tensor(name, "stands twice in the header"));
        }
    }
    Ok(())
}

/// One entry against the bytes of data that the file holds.
fn check_entry(name: &str, entry: &Entry, data_len: usize) -> Result<(), HeaderError> {
    let err = |reason: String| Err(HeaderError::tensor(name, reason));
    let (begin, end) = entry.data_offsets;
    if entry.shape.len() > MAX_RANK {
        return err(format!("{} dimensions", entry.shape.len()));
    }
    if begin > end {
        return err(format!("data offsets [{begin}, {end}] run backwards"));
    }
    if end > data_len {
        return err(format!(
            "data offsets [{begin}, {end}] lie outside the file, which holds {data_len} bytes of data: truncated?"
        ));
    }
    let bits = entry
        .shape
        .iter()
        .try_fold(entry.dtype.bitsize(), |n, &d| n.checked_mul(d));
    match bits {
        Some(bits) if bits % 8 == 0 && bits / 8 == end - begin => Ok(()),
        Some(bits) => err(format!(
            "{:?} {:?} takes {} bytes, the header gives it {}",
            entry.dtype,
            entry.shape,
            bits.div_ceil(8),
            end - begin
        )),
        None => err(format!(
            "the size of {:?} {:?} overflows",
            entry.dtype, entry.shape
        )),
    }
}

/// The tensors must cover the data exactly: no overlaps, no holes, nothing after them.
fn check_cover(entries: &[(String, Entry)], data_len: usize) -> Result<(), HeaderError> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|(_, e)| e.data_offsets);
    let mut covered = 0;
    for (name, entry) in sorted {
        let (begin, end) = entry.data_offsets;
        if begin != covered {
            let what = if begin < covered {
                "overlaps the tensor before it"
            } else {
                "leaves a hole before it"
            };
            return Err(HeaderError::tensor(
                name,
                format!("data offsets [{begin}, {end}]: {what}, which ends at {covered}"),
            ));
        }
        covered = end;
    }
    if covered != data_len {
        return Err(HeaderError::file(format!(
            "the header describes {covered} bytes of data, the file holds {data_len}"
        )));
    }
    Ok(())
}

/// What a header holds.
struct Entries {
    /// The tensors in file order, duplicates kept, so that they can be refused.
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                metadata = map
                    .next_value()
                    .map_err(|e| A::Error::custom(format!("`__metadata__`: {e}")))?;
            } else {
                let entry = map
                    .next_value()
                    .map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                entries.push((name, entry));
            }
        }
        Ok(Entries { entries, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut out = (json.len() as u64).to_le_bytes().to_vec();
        out.extend(json.as_bytes());
        out.extend(vec![0; data]);
        out
    }

    fn good() -> Vec<u8> {
        let json = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
            "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
            "z":{"dtype":"U8","shape":[0,7],"data_offsets":[4,4]}}"#;
        file(json, 16)
    }

    #[test]
    fn a_good_header_is_read() {
        let header = Header::parse(&good()).unwrap();
        let names: Vec<_> = header.tensors.keys().collect();
        assert_eq!(names, ["a", "b", "z"]);
        assert_eq!(header.tensors["b"].data_offsets, (4, 16));
        assert_eq!(good().len() - header.data_start, 16);
        assert_eq!(header.metadata["format"], "pt");
    }

    #[test]
    fn bad_headers_are_refused_with_a_reason() {
        let f32x4 = |range: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":[4],"data_offsets":[{range}]}}}}"#)
        };
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[{a}]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":[{b}]}}}}"#
            )
        };
        let shape =
            |s: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[{s}],"data_offsets":[0,16]}}}}"#);
        let long = vec!["1"; MAX_RANK + 1].join(",");
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![1, 2, 3], "3 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "claims a header of"),
            (200_000_000u64.to_le_bytes().to_vec(), "claims a header of"),
            (1000u64.to_le_bytes().to_vec(), "truncated"),
            (file("", 0), "not valid"),
            (file("[]", 0), "object of tensors"),
            (file("{\"a\":", 0), "not valid"),
            (file("{\"a\":3}", 0), "tensor `a`"),
            (file(&f32x4("0,16"), 15), "outside the file"),
            (file(&f32x4("0,16"), 17), "describes 16 bytes"),
            (file(&f32x4("0,12"), 12), "takes 16 bytes"),
            (file(&f32x4("16,0"), 16), "backwards"),
            (file(&f32x4("4,20"), 20), "hole"),
            (file(&f32x4("-1,15"), 16), "tensor `a`"),
            (file(&f32x4("0,18446744073709551615"), 16), "outside"),
            (file(&two("0,4", "0,4"), 4), "overlaps"),
            (file(&two("0,4", "2,6"), 6), "overlaps"),
            (file(&two("0,4", "5,9"), 9), "hole"),
            (file(&shape("4611686018427387904,4"), 16), "overflows"),
            (file(&shape(&long), 16), "17 dimensions"),
            (file(&shape("4").replace("F32", "F33"), 16), "F33"),
            (
                file(&two("0,4", "4,8").replace("\"b\"", "\"a\""), 8),
                "stands twice",
            ),
            (file("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__"),
            (file(&"[".repeat(100_000), 0), "not valid"),
        ];
        for (bytes, expected) in cases {
            let error = Header::parse(&bytes).unwrap_err();
            let text = format!("{} {}", error.tensor.unwrap_or_default(), error.reason);
            assert!(text.contains(expected), "`{expected}` is not in: {text}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_refused() {
        let mut bytes = good();
        bytes[9] = 0xff;
        assert!(Header::parse(&bytes).unwrap_err().reason.contains("UTF-8"));
    }

    proptest! {
        /// Whatever is accepted lies inside the file.
        #[test]
        fn damage_never_panics(flips in proptest::collection::vec((0usize..400, any::<u8>()), 1..6), cut in 0usize..400) {
            let mut bytes = good();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut % (bytes.len() / 2));
            if let Ok(header) = Header::parse(&bytes) {
                for entry in header.tensors.values() {
                    prop_assert!(header.data_start + entry.data_offsets.1 <= bytes.len());
                }
            }
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&bytes);
        }
    }
}
