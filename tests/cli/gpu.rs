//! What can be said of GPUs without having one.

use crate::common::*;

#[test]
fn doctor_names_everything_and_where_it_is() {
    let report = rabitc(&["doctor", "--json"]).json();
    let findings = report.as_array().unwrap();
    let find = |name: &str| findings.iter().find(|f| f["name"] == name);
    for name in ["processor", "Cranelift", "LLVM", "NVRTC", "nvdisasm"] {
        let finding = find(name).unwrap_or_else(|| panic!("{name}: {report}"));
        assert!(!finding["needed_for"].as_str().unwrap().is_empty());
        match finding["found"].as_bool().unwrap() {
            // What is missing comes with what to do about it.
            false => assert!(finding["detail"].as_str().unwrap().len() > 10, "{finding}"),
            true => {
                let path = finding["path"].as_str();
                assert!(path.is_none_or(|p| std::path::Path::new(p).is_file()));
            }
        }
    }
    assert_eq!(find("Cranelift").unwrap()["found"], true);
    let driver = find("CUDA driver").unwrap();
    // A driver comes with a list of devices, or the word that there are none.
    assert_eq!(driver["found"], find("GPU").is_some(), "{report}");
    let text = rabitc(&["doctor"]).out;
    assert_eq!(text.lines().count(), findings.len(), "{text}");
}

#[test]
fn a_device_that_is_not_there_cannot_be_tuned() {
    let config = models("fixtures/llama3/config.json");
    let tune = |more: &[&str], words: &[&str]| {
        refuses(
            &[&["tune", arg(&config), "--device", "cuda:999"], more].concat(),
            words,
        );
    };
    tune(&[], &["there is no"]);
    tune(&["--activations", "f32"], &["int8 and int16"]);
    tune(&["--backend", "cranelift"], &["NVRTC"]);
    refuses(
        &["tune", arg(&config), "--target", "cuda:sm_90"],
        &["--device cuda"],
    );
}

#[test]
fn tuned_code_for_a_gpu_needs_times_of_such_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let [cache, output] = ["tune.json", "m.rbx"].map(|n| dir.path().join(n));
    let tuned = format!("--tuned={}", arg(&cache));
    let checkpoint = models("fixtures/llama3");
    let args = ["compile", arg(&checkpoint), "-o", arg(&output), &tuned];
    refuses(
        &[&args[..], &["--target", "cuda:sm_90"]].concat(),
        &["sm_90", "rabitc tune --device cuda"],
    );
}
