//! What can be said of GPUs without having one.

use crate::common::*;

#[test]
fn doctor_names_everything_and_where_it_is() {
    let report = rabitc(&["doctor", "--json"]).json();
    let findings = report.as_array().unwrap();
    let find = |name: &str| findings.iter().find(|f| f["name"] == name);
    let names = ["processor", "Cranelift", "LLVM", "NVRTC", "nvdisasm"];
    for name in names.into_iter().chain(["cuBLASLt"]) {
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

/// Where there is NVRTC; code for GPUs is apart from what else the file holds.
#[test]
fn an_artifact_for_gpus_tells_what_takes_its_room() {
    let report = rabitc(&["doctor", "--json"]).json();
    let mut findings = report.as_array().unwrap().iter();
    if !findings.any(|f| f["name"] == "NVRTC" && f["found"] == true) {
        return println!("skipped: there is no NVRTC");
    }
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.rbx");
    let checkpoint = models("fixtures/llama3");
    compile(&checkpoint, &model, &["--target", "cuda:sm_80"]);
    let artifact = rabitc_rbx::Artifact::open(&model).unwrap();
    let target = &artifact.manifest().gpus[0];
    let bytes = |name: &str| artifact.bytes(name).unwrap().len();
    let code = bytes(&target.cubin_section) + bytes(&target.ptx_section);
    let expected = format!("{:.2} MB", code as f64 / 1e6);
    let out = rabitc(&["inspect", arg(&model)]).out;
    let size = |part: &str| {
        let line = out.lines().find(|l| l.starts_with(&format!("| {part} ")));
        let line = line.unwrap_or_else(|| panic!("{part}: {out}"));
        line.split('|').nth(2).unwrap().trim().to_owned()
    };
    assert_eq!(size("GPU code"), expected);
    assert_eq!([size("code"), size("tokenizer")], ["0 B", "0 B"]);
    assert!(!out.contains("| phases |"), "tables of nothing: {out}");
    let plan = rabitc(&["inspect", arg(&model), "--plan"]).out;
    for program in &target.programs {
        assert!(plan.contains(&format!("sm_80, {}\n", program.name)));
        for step in &program.steps {
            let kernel = &target.kernels[step.kernel].name;
            let line = format!("| {} ", step.node);
            let mut lines = plan.lines().filter(|l| l.starts_with(&line));
            assert!(lines.any(|l| l.contains(kernel.as_str())), "{line}: {plan}");
        }
    }
    refuses(
        &["run", arg(&model), "--ids", "1"],
        &["sm_80", "--device cuda"],
    );
}
