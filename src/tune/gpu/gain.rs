//! What measurements gain over the cost model, over the programs of a kind and over all.

use super::Tuned;

/// The gain over some programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Gain {
    /// The kind of kernels; `None` for all kinds together.
    pub kind: Option<&'static str>,
    /// How many programs.
    pub programs: usize,
    /// Nanoseconds of the layers of a run of each program, or of the products alone where layers were
    /// not measured, added up: as the cost model cuts the products, and as the measurements do.
    pub total_ns: [f64; 2],
    /// Geometric mean of how many times faster each program is.
    pub mean: f64,
}

impl Gain {
    fn of<'a>(kind: Option<&'static str>, programs: impl Iterator<Item = &'a Tuned>) -> Gain {
        let (mut count, mut logarithms, mut total_ns) = (0, 0.0, [0.0; 2]);
        for program in programs {
            let [model, best] = program.step_ns.unwrap_or(program.link_ns);
            count += 1;
            logarithms += (model / best).ln();
            total_ns[0] += model * program.links as f64;
            total_ns[1] += best * program.links as f64;
        }
        Gain {
            kind,
            programs: count,
            total_ns,
            mean: (logarithms / count.max(1) as f64).exp(),
        }
    }

    /// How many times faster all of it is.
    pub fn total(&self) -> f64 {
        self.total_ns[0] / self.total_ns[1]
    }
}

/// The gain of every kind in the order of the programs, then of all together.
pub fn gains(tuned: &[Tuned]) -> Vec<Gain> {
    let mut kinds: Vec<&'static str> = Vec::new();
    for program in tuned {
        if !kinds.contains(&program.kind) {
            kinds.push(program.kind);
        }
    }
    let of =
        |kind: &'static str| Gain::of(Some(kind), tuned.iter().filter(move |t| t.kind == kind));
    let all = Gain::of(None, tuned.iter());
    kinds.into_iter().map(of).chain([all]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(kind: &'static str, links: usize, link_ns: [f64; 2]) -> Tuned {
        Tuned {
            program: "p",
            kind,
            products: Vec::new(),
            links,
            link_ns,
            step_ns: None,
            sign_bytes: 1,
        }
    }

    #[test]
    fn kinds_are_added_up_and_so_are_all() {
        let tuned = [
            program("one", 10, [8.0, 2.0]),
            program("few", 10, [3.0, 3.0]),
            program("few", 10, [8.0, 4.0]),
        ];
        let found = gains(&tuned);
        let kinds: Vec<_> = found.iter().map(|g| (g.kind, g.programs)).collect();
        assert_eq!(kinds, [(Some("one"), 1), (Some("few"), 2), (None, 3)]);
        assert_eq!(found[1].total_ns, [110.0, 70.0]);
        assert!((found[1].mean - 2f64.sqrt()).abs() < 1e-12);
        assert!((found[2].mean - 2.0).abs() < 1e-12, "{}", found[2].mean);
        assert!((found[2].total() - 190.0 / 90.0).abs() < 1e-12);
    }

    #[test]
    fn layers_count_where_they_were_measured() {
        let layers = Tuned {
            step_ns: Some([30.0, 20.0]),
            ..program("one", 2, [8.0, 2.0])
        };
        assert_eq!(gains(&[layers])[1].total_ns, [60.0, 40.0]);
    }
}
