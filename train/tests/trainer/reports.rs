//! Reports tell what the metrics hold.

use rabitc_train::report::Report;

use super::*;

/// A run of each method; the last with every part of the loss.
fn trained() -> Vec<tempfile::TempDir> {
    let model = Model::new(12);
    let methods = [Method::Rabit, Method::Independent, Method::Frozen];
    let runs = methods.map(|method| {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe();
        recipe.method = method;
        if method == Method::Frozen {
            recipe.loss.text = 0.1;
            recipe.loss.diversity = 0.1;
        }
        Setting::new(&model, recipe)
            .run(dir.path(), false, &Cpu)
            .unwrap();
        dir
    });
    runs.into()
}

/// The titles of a page's charts.
fn charts(page: &str) -> Vec<&str> {
    let sections = page.split("<h2>").skip(1);
    let charts = sections.filter(|section| section.contains("<svg"));
    charts.map(|s| s.split("</h2>").next().unwrap()).collect()
}

#[test]
fn a_page_has_a_chart_of_everything_that_was_measured() {
    let runs = trained();
    let dirs: Vec<PathBuf> = runs.iter().map(|run| run.path().to_path_buf()).collect();
    let plain = Report::read(&dirs[..1]).unwrap().page();
    assert!(plain.starts_with("<!doctype html>") && plain.ends_with("</html>\n"));
    let titles = charts(&plain);
    assert_eq!(titles.len(), 10, "{titles:?}");
    for title in [
        "Learning rate",
        "Training: norm of the gradient, before clipping",
    ] {
        assert!(titles.contains(&title), "{titles:?}");
    }
    // One line each for latent weights, scales and the rest.
    let rates = plain.split("<h2>Learning rate").nth(1).unwrap();
    let rates = rates.split("<h2>").next().unwrap();
    assert_eq!(rates.matches("<polyline").count(), 3);
    let all = Report::read(&dirs).unwrap().page();
    let titles = charts(&all);
    assert_eq!(titles.len(), 12, "{titles:?}");
    for (title, lines) in [
        ("Training: cross-entropy with the text", 1),
        ("Training: overlap of paths", 1),
        ("Learning rate", 3),
        ("Validation: KL to the teacher", 3),
    ] {
        let chart = all.split(&format!("<h2>{title}")).nth(1).unwrap();
        let chart = chart.split("<h2>").next().unwrap();
        assert_eq!(chart.matches("<polyline").count(), lines, "{title}");
        // Only what is drawn is explained.
        assert_eq!(chart.matches("<span><i").count(), lines, "{title}");
    }
}

#[test]
fn figures_are_what_was_recorded() {
    let runs = trained();
    let dirs: Vec<PathBuf> = runs.iter().map(|run| run.path().to_path_buf()).collect();
    let report = Report::read(&dirs).unwrap();
    let figures = report.figures();
    assert_eq!(figures.len(), 3);
    for (figures, dir) in figures.iter().zip(&dirs) {
        let kl = validations(dir);
        assert_eq!(figures.first.map(|v| v.kl), kl.first().copied());
        assert_eq!(figures.last.map(|v| v.kl), kl.last().copied());
        assert_eq!((figures.steps, figures.tokens), (12, 12 * 3 * 9));
        let paths = figures.paths_last.as_ref().unwrap();
        assert_eq!((paths.step, paths.layers.len()), (12, 14));
        let weighted = paths.layers.iter().map(|l| l.weighted[0]).sum::<f64>() / 14.0;
        assert!((paths.weighted - weighted).abs() < 1e-12);
        assert!(report.page().contains(&format!("{:.4}", kl[0])));
    }
    let json = serde_json::to_value(&figures).unwrap();
    assert_eq!(json[2]["recipe"]["method"], "frozen");
    assert_eq!(json[0]["paths_first"]["step"], 0);
    assert_eq!(json[1]["last"]["step"], 12);
}

#[test]
fn what_holds_no_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let read = || Report::read(&[dir.path().to_path_buf()]).err().unwrap();
    assert!(read().to_string().ends_with("holds no run of training"));
    std::fs::write(dir.path().join("metrics.jsonl"), "{\"kind\":\"x\"}\n").unwrap();
    let message = read().to_string();
    assert!(message.contains("metrics.jsonl: line 1"), "{message}");
}
