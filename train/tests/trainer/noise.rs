//! Sequences that the teacher has a part in.

use std::collections::BTreeMap;

use rabitc_ir::{Interpreter, Tensor};
use rabitc_passes::autodiff::training::{Form, form};
use rabitc_train::corpus::Batch;
use rabitc_train::noise::teacher::Blanks;
use rabitc_train::{graphs, plan};

use super::*;

/// Tokens of the model's vocabulary.
const VOCAB: usize = 23;

/// A batch of `count` sequences of two tokens and one after them, all tokens `first`, of which
/// the teacher has written all but the first.
fn written(teacher: &Teacher, first: i32, count: usize) -> Batch {
    let noise = Noise {
        rate: 1.0,
        from: NoiseSource::Teacher,
        span: 2,
        order: 0,
    };
    let (mut batch, mut blanks) = (Batch::default(), Blanks::default());
    for number in 0..count {
        let at = 2 * number..2 * number + 2;
        blanks.mark(&noise, 5, number as u64, at);
        batch.push(&[first; 3]);
    }
    let mut engine = CpuEngine::new(Some(2)).unwrap();
    plan::set_teacher(&mut engine, &teacher.graph, &teacher.checkpoint).unwrap();
    let graph = graphs::writing(&teacher.graph, 2).unwrap();
    let program = engine.program(&graph, 2 * count).unwrap();
    blanks.fill(&mut engine, program, &mut batch, 2).unwrap();
    batch
}

/// What the teacher says after `first`, and after `first` and each token.
fn said(teacher: &Teacher, first: i32) -> [Vec<Vec<f64>>; 2] {
    let (seq_len, weights) = (2, None);
    let graph = form(&teacher.graph, &Form { seq_len, weights }).unwrap();
    let ids = (0..VOCAB as i32)
        .flat_map(|second| [first, second])
        .collect();
    let positions = [0, 1].repeat(VOCAB);
    let inputs = [("ids", ids), ("positions", positions)].map(|(name, values): (_, Vec<i32>)| {
        (name.to_string(), Tensor::i32(&[values.len()], values))
    });
    let outputs = Interpreter::new(&graph, &teacher.checkpoint)
        .run(inputs)
        .unwrap();
    let logits = &outputs["logits"];
    let softmax = |row: &[f32]| -> Vec<f64> {
        let weights: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let rows: Vec<_> = logits.floats().chunks(VOCAB).map(softmax).collect();
    [0, 1].map(|i| rows.iter().skip(i).step_by(2).cloned().collect())
}

/// Pearson's statistic of counts against probabilities, standardised; outcomes of which fewer
/// than five are expected are taken together.
fn deviation(found: &BTreeMap<Vec<i32>, usize>, expected: &[(Vec<i32>, f64)], n: f64) -> f64 {
    let (mut statistic, mut cells, mut rare) = (0.0, 0, (0.0, 0.0));
    let term = |found: f64, expected: f64| (found - expected).powi(2) / expected;
    for (outcome, p) in expected {
        let count = found.get(outcome).copied().unwrap_or(0) as f64;
        match n * p >= 5.0 {
            true => {
                statistic += term(count, n * p);
                cells += 1;
            }
            false => rare = (rare.0 + count, rare.1 + n * p),
        }
    }
    if rare.1 > 0.0 {
        statistic += term(rare.0, rare.1);
        cells += 1;
    }
    assert!(cells > 5, "{cells}");
    let degrees = f64::from(cells - 1);
    (statistic - degrees) / (2.0 * degrees).sqrt()
}

/// Each token is drawn from what the teacher says after those before it, written ones included.
#[test]
fn the_teacher_writes_what_it_says() {
    const COUNT: usize = 6000;
    let model = Model::new(5);
    let teacher = model.teacher();
    let batch = written(&teacher, 4, COUNT);
    let [after_first, after_second] = said(&teacher, 4);
    let mut found: BTreeMap<Vec<i32>, usize> = BTreeMap::new();
    for (ids, labels) in batch.ids.chunks(2).zip(batch.labels.chunks(2)) {
        assert_eq!((ids[0], ids[1]), (4, labels[0]));
        *found.entry(labels[..1].to_vec()).or_default() += 1;
        *found.entry(labels.to_vec()).or_default() += 1;
    }
    let first = (0..).zip(&after_first[0]);
    let one: Vec<_> = first.clone().map(|(a, p)| (vec![a], *p)).collect();
    let two: Vec<_> = first
        .zip(&after_second)
        .flat_map(|((a, p), after)| {
            let pair = |(b, q): (i32, &f64)| (vec![a, b], p * q);
            (0..).zip(after).map(pair).collect::<Vec<_>>()
        })
        .collect();
    for expected in [one, two] {
        // Five standard deviations of the statistic.
        let deviation = deviation(&found, &expected, COUNT as f64);
        assert!(deviation < 5.0, "{deviation}");
    }
}

/// Without noise it does not matter where it would come from.
#[test]
fn no_noise_is_none() {
    let model = Model::new(1);
    let losses = |from, span| {
        let mut recipe = recipe();
        recipe.noise.from = from;
        recipe.noise.span = span;
        let dir = tempfile::tempdir().unwrap();
        Setting::new(&model, recipe)
            .run(dir.path(), false, &Cpu)
            .unwrap();
        let mut records = records(dir.path());
        // It has the recipe.
        records.retain(|record| !matches!(record, Record::Run(_)));
        records
    };
    assert_eq!(
        losses(NoiseSource::Text, 1),
        losses(NoiseSource::Teacher, 4)
    );
}

/// What is read differs from the text in about the share asked for, the same every time.
#[test]
fn a_share_of_the_text_is_replaced() {
    let corpus = Corpus::of_tokens(vec![vec![7; 5001]], vec!["text".into()]);
    let marked = |share, span| {
        let noise = Noise {
            rate: share,
            from: NoiseSource::Teacher,
            span,
            ..Noise::default()
        };
        let position = rabitc_train::batches::Position::default();
        let batches = rabitc_train::batches::Batches::new(&corpus, 100, 40, 9, noise, position);
        batches.unwrap().next(40)
    };
    for (share, span) in [(0.1, 1), (0.4, 5)] {
        let (batch, blanks) = marked(share, span);
        assert!(batch.ids.iter().chain(&batch.labels).all(|id| *id == 7));
        assert_eq!((batch, blanks.clone()), marked(share, span));
        // Five standard deviations, were all tokens of a run one draw.
        let n = 4000.0 * f64::from(share);
        let slack = 5.0 * (n * span as f64).sqrt();
        assert!(
            (blanks.tokens() as f64 - n).abs() < slack,
            "{}",
            blanks.tokens()
        );
    }
}
