//! Tests of the cache, and entries for other tests.

use super::*;
use rabitc_rbx::Level;

/// A machine by its processor's name.
pub fn host(cpu: &str, threads: usize) -> Host {
    Host {
        cpu: cpu.into(),
        generator: "rabitc 0".into(),
        backend: "cranelift".into(),
        level: Level::X86V3,
        threads,
    }
}

/// An entry with these (row tiles, time of decoding).
pub fn entry(host: Host, d_in: usize, times: &[(usize, f64)]) -> Entry {
    let candidate = |&(row_tiles, ns): &(usize, f64)| Candidate {
        row_tiles,
        decode: Timing::of(&[ns]).unwrap(),
        gigabytes_per_second: 1.5,
        prompt: Timing::of(&[ns * 20.0]).unwrap(),
    };
    let shape = LayerShape {
        d_in,
        segments: vec![16, 32],
        paths: 2,
        activations: "int8",
    };
    Entry {
        host,
        shape: Shape::of(&shape),
        candidates: times.iter().map(candidate).collect(),
    }
}

#[test]
fn a_file_gives_back_what_was_put_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/tune.json");
    assert_eq!(Cache::load_or_new(&path).unwrap(), Cache::default());
    let [first, foreign] = ["a", "b"].map(|cpu| entry(host(cpu, 2), 64, &[(1, 3.25)]));
    Cache::add(&path, vec![foreign.clone()]).unwrap();
    Cache::add(&path, vec![first]).unwrap();
    // The same again replaces, what others measured stays.
    let again = entry(host("a", 2), 64, &[(1, 3.0), (2, 0.5)]);
    Cache::add(&path, vec![again.clone()]).unwrap();
    let cache = Cache::load(&path).unwrap();
    assert_eq!(cache.entries, [foreign, again]);
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["tune.json"], "nothing temporary is left");
}

#[test]
fn shapes_survive() {
    let entry = entry(host("a", 2), 64, &[(1, 1.0)]);
    let layer = entry.shape.layer().unwrap();
    assert_eq!((layer.d_in, &layer.segments[..]), (64, &[16, 32][..]));
    assert_eq!(Shape::of(&layer), entry.shape);
    let unknown = Shape {
        activations: "int3".into(),
        ..entry.shape
    };
    assert_eq!(unknown.layer(), None);
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tune.json");
    let good = entry(host("a", 2), 64, &[(1, 1.0)]);
    Cache::add(&path, vec![good.clone()]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for (damaged, why) in [
        (text[..text.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
        ("\"words\"".into(), "invalid type"),
        (
            text.replace("\"format\": 1", "\"format\": 7"),
            "format is 7",
        ),
        (
            text.replace("\"row_tiles\": 1", "\"row_tiles\": 0"),
            "numbers",
        ),
        (text.replace("\"row_tiles\": 1", "\"row_tiles\": -1"), "-1"),
        (
            text.replace("\"median_ns\": 1.0", "\"median_ns\": -1.0"),
            "numbers",
        ),
    ] {
        assert_ne!(damaged, text);
        std::fs::write(&path, &damaged).unwrap();
        let message = format!("{:#}", Cache::load(&path).unwrap_err());
        assert!(
            message.contains("tune.json") && message.contains(why),
            "{why}: {message}"
        );
        // It is not overwritten either.
        assert!(Cache::add(&path, vec![good.clone()]).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
    assert!(Cache::load(dir.path()).is_err());
}

#[test]
fn medians_and_quartiles() {
    assert_eq!(Timing::of(&[]), None);
    let timing = Timing::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
    assert_eq!(
        (timing.median_ns, timing.quartiles_ns, timing.rounds),
        (3.0, [2.0, 4.0], 5)
    );
    let timing = Timing::of(&[1.0, 2.0]).unwrap();
    assert_eq!((timing.median_ns, timing.quartiles_ns), (1.5, [1.25, 1.75]));
}
