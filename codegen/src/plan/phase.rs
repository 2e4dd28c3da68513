//! Which launches may run at the same time, and how long buffers live.

use super::launch::{Launch, Operand};
use super::lower::Lowered;

/// The earliest phase of every launch: one after everything it depends on. A launch depends on
/// the writers of the buffers it reads, and on the launches before it that touch the same cache
/// where one of the two writes.
pub fn phases(launches: &[Launch], buffers: usize) -> Vec<usize> {
    let mut written = vec![0; buffers];
    let mut caches: Vec<(usize, usize)> = Vec::new();
    let mut phases = Vec::with_capacity(launches.len());
    for launch in launches {
        let mut phase = 0;
        for operand in launch.operands() {
            let after = match operand {
                Operand::Read(b, _) => written[*b],
                Operand::Keys(layer) | Operand::Values(layer) => {
                    let found = caches.iter().rev().find(|(l, _)| l == layer);
                    found.map_or(0, |(_, phase)| *phase)
                }
                _ => 0,
            };
            phase = phase.max(after);
        }
        for operand in launch.operands() {
            match operand {
                Operand::Write(b, _) => written[*b] = phase + 1,
                Operand::Keys(layer) => caches.push((*layer, phase + 1)),
                _ => {}
            }
        }
        phases.push(phase);
    }
    phases
}

/// First and last phase in which every buffer holds something of use. The logits live to the end.
pub fn lifetimes(lowered: &Lowered, phases: &[usize]) -> Vec<(usize, usize)> {
    let mut live = vec![(usize::MAX, 0); lowered.buffers.len()];
    for (launch, &phase) in lowered.launches.iter().zip(phases) {
        for operand in launch.operands() {
            if let Operand::Read(b, _) | Operand::Write(b, _) = operand {
                let (first, last) = &mut live[*b];
                *first = (*first).min(phase);
                *last = (*last).max(phase);
            }
        }
    }
    live[lowered.logits].1 = usize::MAX;
    live
}
