//! Tests of the sampler: distributions against their probabilities, filters against definitions.

use super::*;
use proptest::prelude::*;

fn options(temperature: f32, seed: u64) -> SamplerOptions {
    SamplerOptions {
        temperature,
        seed,
        ..SamplerOptions::default()
    }
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let weights = logits.iter().map(|&l| f64::from(l / temperature).exp());
    let total: f64 = weights.clone().sum();
    weights.map(|w| w / total).collect()
}

/// Draws `n` tokens from the same logits, with no memory of those drawn.
fn counts(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(options, logits.len()).unwrap();
    let mut counts = vec![0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    counts
}

/// Asserts that counts agree with probabilities by Pearson's chi-square. Its mean is the degrees
/// of freedom and its variance twice that; six deviations and a margin for small df are far out.
fn assert_distribution(counts: &[usize], probabilities: &[f64]) {
    let n = counts.iter().sum::<usize>() as f64;
    let (mut chi_square, mut categories) = (0.0, 0.0);
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 {
            assert_eq!(count, 0, "an excluded token was drawn");
            continue;
        }
        chi_square += (count as f64 - n * p).powi(2) / (n * p);
        categories += 1.0;
    }
    let bound = categories + 6.0 * f64::sqrt(2.0 * categories) + 10.0;
    assert!(
        chi_square < bound,
        "{chi_square} ≥ {bound}: {counts:?} against {probabilities:?}"
    );
}

fn renormalised(mut probabilities: Vec<f64>, keep: &[usize]) -> Vec<f64> {
    for (id, p) in probabilities.iter_mut().enumerate() {
        if !keep.contains(&id) {
            *p = 0.0;
        }
    }
    let total: f64 = probabilities.iter().sum();
    probabilities.iter().map(|p| p / total).collect()
}

const LOGITS: [f32; 6] = [0.3, 2.0, -1.0, 1.5, 2.0, 0.0];

#[test]
fn draws_follow_the_softmax() {
    for (seed, temperature) in [(1, 1.0), (2, 0.5), (3, 3.0)] {
        let drawn = counts(options(temperature, seed), &LOGITS, 40_000);
        assert_distribution(&drawn, &softmax(&LOGITS, temperature));
    }
}

#[test]
fn top_k_keeps_the_highest_and_the_lowest_ids_of_a_tie() {
    let base = options(1.0, 7);
    for (top_k, kept) in [(2, &[1, 4][..]), (3, &[1, 3, 4]), (4, &[0, 1, 3, 4])] {
        let drawn = counts(SamplerOptions { top_k, ..base }, &LOGITS, 20_000);
        assert_distribution(&drawn, &renormalised(softmax(&LOGITS, 1.0), kept));
    }
    let tie = counts(SamplerOptions { top_k: 2, ..base }, &[1.0; 5], 1000);
    assert_eq!(tie[2..], [0, 0, 0]);
}

#[test]
fn top_p_counts_probabilities_after_top_k() {
    // The two highest are equal, so among three kept each has less than a half: two reach 0.6.
    let filtered = SamplerOptions {
        top_k: 3,
        top_p: 0.6,
        ..options(1.0, 9)
    };
    let drawn = counts(filtered, &LOGITS, 20_000);
    assert_distribution(&drawn, &renormalised(softmax(&LOGITS, 1.0), &[1, 4]));
}

#[test]
fn top_p_counts_probabilities_after_temperature() {
    let logits = [0.0, 2.0f32.ln()];
    // A third and two thirds as they stand; at temperature 1/4, one seventeenth and the rest.
    let top_p = SamplerOptions {
        top_p: 0.9,
        ..options(1.0, 4)
    };
    assert!(counts(top_p, &logits, 1000)[0] > 0);
    let cold = SamplerOptions {
        temperature: 0.25,
        ..top_p
    };
    assert_eq!(counts(cold, &logits, 1000), [0, 1000]);
}

#[test]
fn min_p_is_relative_to_the_most_probable() {
    let filtered = SamplerOptions {
        min_p: 0.55,
        ..options(1.0, 11)
    };
    // e^(1.5 - 2) = 0.61 stays, e^(0.3 - 2) = 0.18 goes.
    let drawn = counts(filtered, &LOGITS, 20_000);
    assert_distribution(&drawn, &renormalised(softmax(&LOGITS, 1.0), &[1, 3, 4]));
}

#[test]
fn the_penalty_divides_positive_and_multiplies_negative_logits() {
    let penalty = SamplerOptions {
        repetition_penalty: 2.0,
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(penalty, 3).unwrap();
    sampler.observe(&[0, 0]).unwrap();
    assert_eq!(sampler.sample(&[3.9, 2.0, 0.0]).unwrap(), 1);
    // Both have been seen now, 1 by being sampled.
    assert_eq!(sampler.sample(&[3.9, 2.0, 0.0]).unwrap(), 0);
    assert_eq!(sampler.sample(&[-0.9, -2.0, -1.7]).unwrap(), 2);
    sampler.reset();
    assert_eq!(sampler.sample(&[3.9, 2.0, 0.0]).unwrap(), 0);
}

#[test]
fn the_penalty_comes_before_the_filters() {
    let filtered = SamplerOptions {
        repetition_penalty: 10.0,
        top_k: 1,
        ..options(1.0, 5)
    };
    let mut sampler = Sampler::new(filtered, 2).unwrap();
    sampler.observe(&[0]).unwrap();
    assert_eq!(sampler.sample(&[5.0, 1.0]).unwrap(), 1);
}

#[test]
fn greedy_takes_the_lowest_id_of_a_tie() {
    let mut sampler = Sampler::new(SamplerOptions::default(), 4).unwrap();
    assert_eq!(sampler.sample(&[1.0, 2.0, 2.0, 0.0]).unwrap(), 1);
    assert_eq!(sampler.sample(&[-0.0, 0.0, -1.0, 0.0]).unwrap(), 0);
}

#[test]
fn equal_seeds_draw_equal_tokens() {
    let draw = |seed| {
        let mut sampler = Sampler::new(options(1.0, seed), LOGITS.len()).unwrap();
        let first: Vec<_> = (0..50).map(|_| sampler.sample(&LOGITS).unwrap()).collect();
        sampler.reset();
        let again: Vec<_> = (0..50).map(|_| sampler.sample(&LOGITS).unwrap()).collect();
        assert_eq!(first, again);
        first
    };
    assert_eq!(draw(42), draw(42));
    assert_ne!(draw(42), draw(43));
}

#[test]
fn extreme_but_valid_options_choose_the_best() {
    for temperature in [f32::MIN_POSITIVE, 1e-40] {
        assert_eq!(counts(options(temperature, 0), &[1.0, 2.0], 100), [0, 100]);
    }
    let tiny = SamplerOptions {
        repetition_penalty: f32::MIN_POSITIVE,
        ..options(1.0, 0)
    };
    let mut sampler = Sampler::new(tiny, 2).unwrap();
    sampler.observe(&[0]).unwrap();
    assert_eq!(sampler.sample(&[5.0, 6.0]).unwrap(), 0);
}

#[test]
fn bad_logits_are_errors() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(options(temperature, 0), 3).unwrap();
        let mut message = |logits: &[f32]| sampler.sample(logits).unwrap_err().to_string();
        assert!(message(&[0.0, f32::NAN, 0.0]).contains("token 1 is NaN"));
        assert!(message(&[0.0, 0.0, f32::INFINITY]).contains("token 2 is inf"));
        assert!(message(&[f32::NEG_INFINITY; 3]).contains("every logit"));
        assert!(message(&[0.0; 4]).contains("4 logits for a vocabulary of 3"));
        assert!(message(&[]).contains("0 logits"));
        let only = [f32::NEG_INFINITY, f32::NEG_INFINITY, -1e30];
        assert_eq!(sampler.sample(&only).unwrap(), 2);
    }
    assert!(
        Sampler::new(SamplerOptions::default(), 0)
            .unwrap()
            .sample(&[])
            .is_err()
    );
}

#[test]
fn options_outside_their_range_are_errors() {
    let base = SamplerOptions::default();
    let bad = [-0.1, f32::NAN, f32::INFINITY];
    for value in bad {
        let wrong = [
            (
                "temperature",
                SamplerOptions {
                    temperature: value,
                    ..base
                },
            ),
            (
                "top_p",
                SamplerOptions {
                    top_p: value,
                    ..base
                },
            ),
            (
                "min_p",
                SamplerOptions {
                    min_p: value,
                    ..base
                },
            ),
            (
                "repetition_penalty",
                SamplerOptions {
                    repetition_penalty: value,
                    ..base
                },
            ),
        ];
        for (name, options) in wrong {
            let message = Sampler::new(options, 2).unwrap_err().to_string();
            assert!(message.contains(&format!("{name} is {value}")), "{message}");
        }
    }
    for options in [
        SamplerOptions { top_p: 0.0, ..base },
        SamplerOptions { top_p: 1.1, ..base },
        SamplerOptions { min_p: 1.1, ..base },
        SamplerOptions {
            repetition_penalty: 0.0,
            ..base
        },
    ] {
        assert!(options.validate().is_err());
    }
    assert!(Sampler::new(base, usize::MAX).is_err());
    let mut sampler = Sampler::new(base, 2).unwrap();
    assert!(sampler.observe(&[0, 2]).is_err());
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    // Quarters, so that ties occur.
    prop::collection::vec((-40i8..40).prop_map(|q| f32::from(q) / 4.0), 1..300)
}

proptest! {
    #[test]
    fn top_k_of_one_is_greedy(logits in any_logits(), temperature in 0.0f32..3.0, seed: u64) {
        let greedy = Sampler::new(SamplerOptions::default(), logits.len()).unwrap().sample(&logits);
        let one = SamplerOptions { top_k: 1, ..options(temperature, seed) };
        let chosen = Sampler::new(one, logits.len()).unwrap().sample(&logits).unwrap();
        prop_assert_eq!(chosen, greedy.unwrap());
    }

    #[test]
    fn a_drawn_token_passes_every_filter(
        logits in any_logits(),
        top_k in 0usize..20,
        top_p in 0.05f32..=1.0,
        min_p in 0.0f32..=1.0,
        seed: u64,
    ) {
        let all = SamplerOptions { top_k, top_p, min_p, ..options(0.7, seed) };
        let id = Sampler::new(all, logits.len()).unwrap().sample(&logits).unwrap() as usize;
        let outranks = |i: usize| logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
        let above: Vec<usize> = (0..logits.len()).filter(|&i| outranks(i)).collect();
        prop_assert!(top_k == 0 || above.len() < top_k);
        let p = softmax(&logits, 0.7);
        let best = p.iter().copied().fold(0.0, f64::max);
        prop_assert!(p[id] >= f64::from(min_p) * best * (1.0 - 1e-5));
        let kept_by_top_k: f64 = {
            let mut sorted = p.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.iter().take(if top_k == 0 { usize::MAX } else { top_k }).sum()
        };
        let mass_above: f64 = above.iter().map(|&i| p[i]).sum();
        prop_assert!(mass_above < f64::from(top_p) * kept_by_top_k + 1e-6);
    }
}

#[test]
fn tokens_chosen_elsewhere_count_like_own_ones() {
    let options = SamplerOptions {
        repetition_penalty: 1.5,
        ..options(1.0, 9)
    };
    let own = |sampler: &mut Sampler| sampler.sample(&LOGITS).unwrap();
    let [mut first, mut second] = [(); 2].map(|()| Sampler::new(options, LOGITS.len()).unwrap());
    for n in 0..20 {
        assert_eq!((first.draws(), second.draws()), (n, n));
        let id = own(&mut first);
        second.accept(id).unwrap();
        assert_eq!(first.seen(), second.seen());
    }
    assert_eq!(own(&mut first), own(&mut second));
    // Greedy choice draws nothing.
    let mut greedy = Sampler::new(SamplerOptions::default(), LOGITS.len()).unwrap();
    greedy.accept(1).unwrap();
    assert_eq!((greedy.draws(), greedy.seen()[1]), (0, true));
    assert!(greedy.accept(LOGITS.len() as u32).is_err());
}

/// The definition that devices draw by, written out.
#[test]
fn a_draw_is_a_pair_of_words_of_the_seeds_stream() {
    let mut sampler = Sampler::new(options(1.0, 0x1122_3344_5566_7788), 1 << 16).unwrap();
    let logits = vec![0.0; 1 << 16];
    let mut key = [0; 32];
    key[..8].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    let mut stream = ChaCha8Rng::from_seed(key);
    for _ in 0..40 {
        // By its path: the prelude has a trait of the same name.
        let mut word = || rand_chacha::rand_core::RngCore::next_u32(&mut stream);
        let (low, high) = (word(), word());
        let share = (u64::from(high) << 21 | u64::from(low) >> 11) as f64 / (1u64 << 53) as f64;
        // Of n equal weights, the first whose running sum reaches the share.
        let expected = ((share * 65536.0).ceil() as u32).max(1) - 1;
        assert_eq!(sampler.sample(&logits).unwrap(), expected);
    }
}
