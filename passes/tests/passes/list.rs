//! The list of passes itself.

use rabitc_ir::text::{parse, print};
use rabitc_passes::{HeadForm, Options, PASSES, PassError, find, run, run_one};

const TEXT: &str = "graph \"g\" {
  %x = input {name=\"x\", ty=f32[T,3]} : f32[T,3]
  %w = weight {name=\"w\", ty=f32[2,3]} : f32[2,3]
  %y = linear(%x, %w) : f32[T,2]
  output \"y\" %y
}
";

#[test]
fn names_are_unique_and_found() {
    for (i, pass) in PASSES.iter().enumerate() {
        assert!(
            PASSES[..i].iter().all(|p| p.name != pass.name),
            "{}",
            pass.name
        );
        assert!(!pass.description.is_empty());
        assert_eq!(find(pass.name).map(|p| p.name), Some(pass.name));
    }
    assert!(find("no-such-pass").is_none());
}

#[test]
fn passes_run_in_order_and_stop_when_the_observer_says_so() {
    let mut graph = parse(TEXT).unwrap();
    let mut seen = Vec::new();
    run(&mut graph, &Options::default(), &mut |pass, _, _| {
        seen.push(pass.name);
        Ok(())
    })
    .unwrap();
    let names: Vec<_> = PASSES.iter().map(|p| p.name).collect();
    assert_eq!(seen, names);
    let mut seen = 0;
    let error = run(&mut graph, &Options::default(), &mut |_, _, _| {
        seen += 1;
        Err("enough".into())
    });
    assert_eq!(
        (error.unwrap_err().to_string(), seen),
        ("enough".to_string(), 1)
    );
}

/// With nothing to do, no pass changes a graph.
#[test]
fn every_pass_leaves_alone_what_does_not_concern_it() {
    let options = Options {
        keep_dense: true,
        ..Options::default()
    };
    let mut graph = parse(TEXT).unwrap();
    let before = print(&graph);
    for pass in PASSES {
        run_one(pass, &mut graph, &options).unwrap();
        assert_eq!(print(&graph), before, "{}", pass.name);
    }
}

#[test]
fn a_graph_that_is_broken_is_refused_after_the_pass() {
    let mut graph = parse(&TEXT.replace("output \"y\" %y\n", "")).unwrap();
    let error = run_one(find("tile").unwrap(), &mut graph, &Options::default()).unwrap_err();
    assert!(matches!(error, PassError::Broken { pass: "tile", .. }));
    assert_eq!(
        error.to_string(),
        "after pass tile: %g: the graph has no output"
    );
}

#[test]
fn a_head_that_is_not_dense_is_named() {
    for head in [HeadForm::Bf16, HeadForm::Int8, HeadForm::Paths(2)] {
        let mut graph = parse(TEXT).unwrap();
        let options = Options {
            head,
            ..Options::default()
        };
        let error = run_one(find("head").unwrap(), &mut graph, &options).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("LM head is not dense") && message.contains("--lm-head"));
    }
}
