//! The search for the fastest step: one product after the other is cut otherwise.
//!
//! What is measured of a step is compared round by round, since a card's clock drifts. Two recordings
//! of the same step differ too, by what is called noise here; less than that is no gain.

use anyhow::Result;

use super::super::cache::Timing;

/// Times that every product is gone through at most.
const MOST_PASSES: usize = 3;

/// Measures a step cut in each of several ways, in turns: as many times of each.
pub type Measure<'a> = &'a mut dyn FnMut(&[Vec<usize>]) -> Result<Vec<Vec<f64>>>;

/// What was measured last of a product in a step, with the others as they were cut then.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// Each candidate's number, and its times.
    pub times: Vec<(usize, Vec<f64>)>,
    /// The noise of these times.
    pub noise: f64,
}

/// The fastest step that was found, and what was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The candidate of each product.
    pub chosen: Vec<usize>,
    /// What was tried of each product.
    pub tried: Vec<Tried>,
}

/// Goes through the products, the `candidates` of each, from the faster of two ways to begin with,
/// until nothing gains more than the noise.
///
/// # Errors
/// Those of `measure`.
pub fn descend(
    begin: [Vec<usize>; 2],
    candidates: &[Vec<usize>],
    measure: Measure<'_>,
) -> Result<Found> {
    let [first, second] = begin;
    let times = measure(&[first.clone(), first.clone(), second.clone()])?;
    let mut chosen = match gain(&times[0], &times[2]) > noise(&times[0], &times[1]) {
        true => second,
        false => first,
    };
    let mut tried = Vec::new();
    for _ in 0..MOST_PASSES {
        let before = chosen.clone();
        tried.clear();
        for (place, candidates) in candidates.iter().enumerate() {
            let found = attempt(&chosen, place, candidates, measure)?;
            chosen[place] = better(&found, chosen[place]);
            tried.push(found);
        }
        if chosen == before {
            break;
        }
    }
    Ok(Found { chosen, tried })
}

/// Measures the candidates of a product, the chosen one first and once more for the noise.
fn attempt(
    chosen: &[usize],
    place: usize,
    candidates: &[usize],
    measure: Measure<'_>,
) -> Result<Tried> {
    let current = chosen[place];
    let others = candidates.iter().copied().filter(|c| *c != current);
    let tried: Vec<usize> = [current, current].into_iter().chain(others).collect();
    let steps = tried.iter().map(|candidate| {
        let mut step = chosen.to_vec();
        step[place] = *candidate;
        step
    });
    let mut times = measure(&steps.collect::<Vec<_>>())?;
    let noise = noise(&times[0], &times[1]);
    times.remove(1);
    let numbers = tried.into_iter().skip(1);
    Ok(Tried {
        times: numbers.zip(times).collect(),
        noise,
    })
}

/// The candidate that gains most over the current one, if that is more than the noise.
fn better(tried: &Tried, current: usize) -> usize {
    let of = |candidate: usize| tried.times.iter().find(|(n, _)| *n == candidate);
    let Some((_, now)) = of(current) else {
        return current;
    };
    let gains = tried.times.iter().map(|(n, times)| (*n, gain(now, times)));
    let best = gains.max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|(_, gain)| *gain > tried.noise)
        .map_or(current, |(n, _)| n)
}

/// By how much `times` are shorter than those `now`, round by round, in the median.
fn gain(now: &[f64], times: &[f64]) -> f64 {
    let gains: Vec<f64> = now.iter().zip(times).map(|(a, b)| a - b).collect();
    Timing::of(&gains).map_or(0.0, |t| t.median_ns)
}

/// How far two recordings of the same step are apart in three rounds of four.
fn noise(once: &[f64], again: &[f64]) -> f64 {
    let apart: Vec<f64> = once.iter().zip(again).map(|(a, b)| (a - b).abs()).collect();
    Timing::of(&apart).map_or(0.0, |t| t.quartiles_ns[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of a step by a formula, with a noise of 1 between recordings.
    fn measure(
        time: impl Fn(&[usize]) -> f64,
    ) -> impl FnMut(&[Vec<usize>]) -> Result<Vec<Vec<f64>>> {
        move |steps| {
            let times = steps.iter().enumerate().map(|(n, step)| {
                let drift = |round: usize| (round % 5) as f64 * 10.0;
                let rounds = (0..16).map(|round| time(step) + drift(round) + (n % 2) as f64);
                rounds.collect()
            });
            Ok(times.collect())
        }
    }

    #[test]
    fn products_are_cut_for_each_other() {
        // Each alone is fastest as 1; the step is fastest as [2, 2].
        let time = |step: &[usize]| match step {
            [2, 2] => 50.0,
            [2, _] | [_, 2] => 70.0,
            [1, 1] => 90.0,
            _ => 100.0,
        };
        let candidates = [vec![0, 1, 2], vec![0, 1, 2]];
        let begin = [vec![0, 0], vec![1, 1]];
        let found = descend(begin, &candidates, &mut measure(time)).unwrap();
        assert_eq!(found.chosen, [2, 2]);
        assert_eq!(found.tried.len(), 2);
        let tried = &found.tried[1];
        let numbers: Vec<usize> = tried.times.iter().map(|(n, _)| *n).collect();
        assert_eq!((numbers, tried.noise), (vec![2, 0, 1], 1.0));
    }

    #[test]
    fn what_gains_no_more_than_noise_is_left() {
        let time = |step: &[usize]| 100.0 - step[0] as f64 * 0.4;
        let candidates = [vec![0, 1, 2]];
        let found = descend([vec![0], vec![1]], &candidates, &mut measure(time)).unwrap();
        assert_eq!(found.chosen, [0]);
        let faster = |step: &[usize]| time(step) - if step[0] == 2 { 5.0 } else { 0.0 };
        let found = descend([vec![0], vec![1]], &candidates, &mut measure(faster)).unwrap();
        assert_eq!(found.chosen, [2]);
    }

    #[test]
    fn the_faster_beginning_counts() {
        let time = |step: &[usize]| if step[0] == 7 { 50.0 } else { 100.0 };
        let found = descend([vec![0], vec![7]], &[vec![7, 0]], &mut measure(time)).unwrap();
        assert_eq!(found.chosen, [7]);
    }

    #[test]
    fn errors_come_through() {
        let mut lost = |_: &[Vec<usize>]| Err(anyhow::anyhow!("lost"));
        descend([vec![0], vec![0]], &[vec![0]], &mut lost).unwrap_err();
    }
}
