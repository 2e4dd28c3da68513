//! `rabitc run` on texts and token ids.

use crate::common::*;

/// The first continuation that the model's authors give: prompt, all ids, all text.
fn story() -> (String, Vec<u32>, String) {
    let story = &reference()["greedy"][0];
    let text = |key: &str| story[key].as_str().unwrap().to_owned();
    (text("prompt"), ids(&story["ids"]), text("text"))
}

#[test]
fn the_example_model_continues_as_its_authors_say() {
    let (prompt, all, text) = story();
    let model = arg(books_dense());
    let report = rabitc(&[
        "run", model, "-p", &prompt, "-n", "48", "--greedy", "--json",
    ])
    .json();
    let read = ids(&report["prompt_ids"]);
    assert_eq!([read, ids(&report["ids"])].concat(), all);
    assert_eq!(prompt.clone() + report["text"].as_str().unwrap(), text);
    assert_eq!(report["finish_reason"], "length");
    assert!(report["seed"].is_null());
    for speed in ["prompt_tokens_per_second", "generation_tokens_per_second"] {
        assert!(report[speed].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn text_streams_and_speeds_follow() {
    let (prompt, _, text) = story();
    let run = rabitc(&[
        "run",
        arg(books_dense()),
        "-p",
        &prompt,
        "-n",
        "48",
        "--greedy",
    ]);
    assert_eq!(prompt + run.out.trim_end_matches('\n'), text);
    assert!(run.err.contains("prompt 15 tokens, "), "{}", run.err);
    assert!(run.err.contains("generation 47 tokens, "), "{}", run.err);
    assert_eq!(run.err.matches("tokens/s").count(), 2, "{}", run.err);
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let (prompt, _, text) = story();
    let args = ["run", arg(books_dense()), "-p", "-", "-n", "48", "--greedy"];
    let run = rabitc_with_input(&args, &prompt);
    assert_eq!(prompt + run.out.trim_end_matches('\n'), text);
}

#[test]
fn ids_go_in_and_come_out() {
    let (_, all, _) = story();
    let (read, rest) = all.split_at(15);
    let base = [
        "run",
        arg(books_dense()),
        "--ids",
        &join(read),
        "-n",
        "24",
        "--greedy",
    ];
    assert_eq!(rabitc(&base).out, join(&rest[..24]) + "\n");
    let report = rabitc(&[&base[..], &["--json"]].concat()).json();
    assert_eq!(ids(&report["ids"]), rest[..24]);
    assert_eq!(ids(&report["prompt_ids"]), *read);
}

#[test]
fn raw_prompts_get_no_begin_token() {
    let run = |more: &[&str]| {
        let base = ["run", arg(books()), "-p", "-5 degrees", "-n", "1", "--json"];
        ids(&rabitc(&[&base[..], more].concat()).json()["prompt_ids"])
    };
    let (plain, raw) = (run(&[]), run(&["--raw"]));
    assert_eq!(plain[0], 0, "the begin token of the example model");
    assert_eq!(plain[1..], raw);
}

#[test]
fn generation_stops_at_end_tokens() {
    // The example model never ends within these tokens, so another token is declared the end.
    let (_, all, _) = story();
    let checkpoint = books_copy();
    for file in ["config.json", "generation_config.json"] {
        edit_json(&checkpoint.path().join(file), |c| {
            c["eos_token_id"] = all[17].into()
        });
    }
    let model = checkpoint.path().join("model.rbx");
    compile(checkpoint.path(), &model, &EXACT);
    let base = [
        "run",
        arg(&model),
        "--ids",
        &join(&all[..15]),
        "-n",
        "8",
        "--greedy",
        "--json",
    ];
    let report = rabitc(&base).json();
    assert_eq!(report["finish_reason"], "eos");
    assert_eq!(ids(&report["ids"]), all[15..=17]);
    let text = report["text"].as_str().unwrap().to_owned();
    let report = rabitc(&[&base[..], &["--ignore-eos"]].concat()).json();
    assert_eq!(report["finish_reason"], "length");
    assert_eq!(ids(&report["ids"]), all[15..23]);
    // The token that ends a text is no part of it.
    let longer = report["text"].as_str().unwrap();
    assert!(
        longer.starts_with(&text) && longer.len() > text.len(),
        "{longer:?} {text:?}"
    );
}

#[test]
fn the_context_bounds_prompt_and_generation() {
    let (_, all, _) = story();
    let prompt = join(&all[..15]);
    let model = arg(books_dense());
    let base = [
        "run", model, "--ids", &prompt, "--greedy", "--json", "--ctx",
    ];
    let report = rabitc(&[&base[..], &["17"]].concat()).json();
    assert_eq!(report["finish_reason"], "context");
    // Two can still be read; the third follows from them.
    assert_eq!(ids(&report["ids"]), all[15..18]);
    refuses(
        &[&base[..], &["14"]].concat(),
        &["15 tokens", "context of 14"],
    );
    refuses(
        &[&base[..], &["2000"]].concat(),
        &["--ctx 2000", "1 to 1024"],
    );
    refuses(&[&base[..], &["0"]].concat(), &["--ctx 0"]);
    let long = join(&vec![5; 1025]);
    refuses(
        &["run", model, "--ids", &long],
        &["1025 tokens", "context of 1024"],
    );
}

#[test]
fn seeds_decide_and_threads_do_not() {
    let run = |more: &[&str]| {
        let base = [
            "run",
            arg(books()),
            "-p",
            "Once",
            "-n",
            "32",
            "--json",
            "--ignore-eos",
        ];
        let report = rabitc(&[&base[..], more].concat()).json();
        (ids(&report["ids"]), report["seed"].as_u64())
    };
    let first = run(&["--seed", "1"]);
    assert_eq!(first.1, Some(1));
    assert_eq!(run(&["--seed", "1", "--threads", "1"]), first);
    assert_ne!(run(&["--seed", "2"]).0, first.0);
    let greedy = run(&["--greedy"]);
    assert_eq!(run(&["--temperature", "0"]), greedy);
    assert_eq!(run(&["--top-k", "1"]).0, greedy.0);
    assert_ne!(
        run(&["--greedy", "--repetition-penalty", "1.5"]).0,
        greedy.0
    );
    // A seed that was chosen for the user repeats the text.
    let (chosen, seed) = run(&[]);
    assert_eq!(run(&["--seed", &seed.unwrap().to_string()]).0, chosen);
}

#[test]
fn a_model_without_tokenizer_takes_ids_only() {
    let checkpoint = models("fixtures/llama2");
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("llama2.rbx");
    compile(&checkpoint, &model, &[]);
    refuses(
        &["run", arg(&model), "-p", "x"],
        &["llama2.rbx", "no tokenizer"],
    );
    let run = [
        "run",
        arg(&model),
        "--ids",
        "1,2,3",
        "-n",
        "4",
        "--greedy",
        "--json",
    ];
    let report = rabitc(&run).json();
    assert_eq!(ids(&report["ids"]).len(), 4);
    assert!(report["text"].is_null());
}

#[test]
fn what_cannot_be_run_is_refused() {
    let model = arg(books());
    refuses(&["run", model], &["-p TEXT", "--ids", "--chat"]);
    refuses(&["run", model, "-p", "x", "-n", "0"], &["-n 0"]);
    refuses(&["run", model, "-p", "", "--raw"], &["the prompt is empty"]);
    refuses(
        &["run", model, "--ids", "1,2048"],
        &["2048", "outside the vocabulary"],
    );
    refuses(&["run", model, "-p", "x", "--threads", "0"], &["--threads"]);
    for (option, value, word) in [
        ("--temperature", "-1", "temperature is -1"),
        ("--temperature", "NaN", "temperature"),
        ("--top-p", "0", "top_p is 0"),
        ("--min-p", "1.5", "min_p is 1.5"),
        ("--repetition-penalty", "0", "repetition_penalty is 0"),
    ] {
        refuses(&["run", model, "-p", "x", option, value], &[word]);
    }
    misused(&["run", model, "--ids", "1,-2"], "-2");
    misused(
        &["run", model, "--ids", "1", "-p", "x"],
        "cannot be used with",
    );
    misused(
        &["run", model, "-p", "x", "--greedy", "--top-k", "5"],
        "cannot be used with",
    );
    misused(&["run", model, "-p", "x", "--system", "y"], "--chat");
}
