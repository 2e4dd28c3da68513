//! Times of the products of a program, one after the other as in a model.
//!
//! A kernel begins to fetch while the one ahead still runs, if both find room on the card, so how a
//! product is best cut depends on its neighbours. A *link* of the chain is every product of a program
//! once, each with signs of its own; a chain has so many links that their signs come from memory. A
//! candidate is measured in its place in the chain, with the other products cut as chosen so far.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rabitc_codegen::cuda::Compiler;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_runtime::cuda::workbench::{Recording, Workbench};

use super::bench::{Bench, stride};
use super::compilation::Compilation;
use super::problem::Stored;
use super::turns::in_turns;

/// Links of a chain: enough that its beginning does not count, and that signs come from memory.
const LINKS: std::ops::RangeInclusive<usize> = 16..=64;
/// The same for products of more than [`FEW`] tokens, which take long and read signs in passing.
const LINKS_OF_MANY: usize = 4;
pub const FEW: usize = 16;
/// Seed of the layers.
const SEED: u64 = 3;
/// Bytes that a chain reads, as a multiple of the L2 cache.
const CACHES: usize = 4;

/// The products of a program on a card.
pub struct Chain<'a> {
    bench: &'a Workbench,
    products: Vec<Bench<'a>>,
    /// The candidate of each product that is in use.
    pub chosen: Vec<usize>,
    links: usize,
}

impl<'a> Chain<'a> {
    /// Makes every candidate of every product ready; the cost model's choices are in use. `layers` are
    /// random ones that are there already, and take in those that are new.
    ///
    /// # Errors
    /// As [`Bench::new`].
    pub fn new(
        bench: &'a Workbench,
        compiler: &Compiler,
        products: &[(&'a Product, &[Compilation])],
        layers: &mut Vec<Rc<Stored>>,
        tick: &mut dyn FnMut(&Product),
    ) -> Result<Chain<'a>> {
        let bytes: usize = products.iter().map(|(p, _)| stride(p)).sum();
        let wanted = (CACHES * bench.device().info.l2).div_ceil(bytes.max(1));
        let links = match products.iter().all(|(p, _)| p.task.tokens <= FEW) {
            true => wanted.clamp(*LINKS.start(), *LINKS.end()),
            false => LINKS_OF_MANY,
        };
        let ready = products.iter().map(|(product, candidates)| {
            tick(product);
            let layout = &product.task.layout.stored;
            let known = layers.iter().find(|layer| layer.has(layout)).cloned();
            let layer = known.unwrap_or_else(|| {
                layers.push(Rc::new(Stored::random(layout, SEED)));
                layers[layers.len() - 1].clone()
            });
            Bench::new(bench, compiler, product, candidates, layer, links)
        });
        Ok(Chain {
            bench,
            products: ready.collect::<Result<_>>()?,
            chosen: vec![0; products.len()],
            links,
        })
    }

    /// Bytes of signs that a replay reads.
    pub fn sign_bytes(&self) -> usize {
        let link: usize = self.products.iter().map(Bench::sign_bytes).sum();
        link * self.links
    }

    /// A product of the program.
    pub fn product(&self, place: usize) -> &Bench<'a> {
        &self.products[place]
    }

    /// Nanoseconds of a link with each candidate of the product in `place`, in the order of the
    /// rounds, until `budget` is spent.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn measure(
        &self,
        place: usize,
        budget: Duration,
        tick: &mut dyn FnMut(),
    ) -> Result<Vec<Vec<f64>>> {
        let choices = (0..self.products[place].candidates()).map(|candidate| {
            let mut chosen = self.chosen.clone();
            chosen[place] = candidate;
            chosen
        });
        self.compare(&choices.collect::<Vec<_>>(), budget, tick)
    }

    /// Nanoseconds of a link with the candidates of all products as each of `choices` has them,
    /// measured in turns.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn compare(
        &self,
        choices: &[Vec<usize>],
        budget: Duration,
        tick: &mut dyn FnMut(),
    ) -> Result<Vec<Vec<f64>>> {
        let start = Instant::now();
        let chains = choices.iter().map(|chosen| self.record(chosen));
        let chains = chains.collect::<Result<Vec<_>>>()?;
        let mut times = in_turns(&chains, start, budget, tick)?;
        for time in times.iter_mut().flatten() {
            *time /= self.links as f64;
        }
        Ok(times)
    }

    fn record(&self, chosen: &[usize]) -> Result<Recording<'_>> {
        let link = |n: usize| {
            let launches = self.products.iter().zip(chosen);
            launches.map(move |(product, candidate)| product.launch(*candidate, n))
        };
        let launches: Vec<_> = (0..self.links).flat_map(link).collect();
        Ok(self.bench.record(&launches)?)
    }
}
