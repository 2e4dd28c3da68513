//! Elementwise nodes to the terms of a map.

use std::collections::HashMap;

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::{DType, NodeId, Op};

use super::Lower;
use crate::CodegenError;
use crate::train::fuse::is_elementwise;
use crate::train::step::{Map, Store, Term, View};

/// A map that is being put together.
#[derive(Default)]
pub(super) struct MapBuilder {
    operands: Vec<View>,
    terms: Vec<Term>,
    known: HashMap<NodeId, usize>,
}

impl MapBuilder {
    /// The map.
    pub fn finish(self, node: String, rows: usize, columns: usize, stores: Vec<Store>) -> Map {
        Map {
            node,
            rows,
            columns,
            operands: self.operands,
            terms: self.terms,
            stores,
        }
    }

    fn operand(&mut self, view: View) -> usize {
        let at = self.operands.iter().position(|v| *v == view);
        at.unwrap_or_else(|| {
            self.operands.push(view);
            self.operands.len() - 1
        })
    }

    fn term(&mut self, term: Term) -> usize {
        let at = self.terms.iter().position(|t| *t == term);
        at.unwrap_or_else(|| {
            self.terms.push(term);
            self.terms.len() - 1
        })
    }

    /// The term of an operand: computed here if it is elementwise and stored nowhere.
    fn read(&mut self, lower: &mut Lower<'_>, id: NodeId) -> Result<usize, CodegenError> {
        if let Some(term) = self.known.get(&id) {
            return Ok(*term);
        }
        let inside = is_elementwise(lower.graph.op(id)) && !lower.views.contains_key(&id);
        let term = match inside {
            true => self.node(lower, id)?,
            false => {
                let operand = self.operand(lower.view(id)?);
                self.term(Term::Load { operand })
            }
        };
        self.known.insert(id, term);
        Ok(term)
    }

    /// Σ factor · part, and what is in `carry`.
    pub fn sum(
        &mut self,
        lower: &mut Lower<'_>,
        parts: &[(f32, NodeId)],
        carry: Option<View>,
    ) -> Result<usize, CodegenError> {
        let mut terms = Vec::with_capacity(parts.len() + 1);
        if let Some(view) = carry {
            let operand = self.operand(view);
            terms.push((1.0, self.term(Term::Load { operand })));
        }
        for (factor, part) in parts {
            terms.push((*factor, self.read(lower, *part)?));
        }
        Ok(self.term(Term::Sum(terms)))
    }

    fn column(&mut self, view: View) -> usize {
        let operand = self.operand(view);
        self.term(Term::Column { operand })
    }

    /// The term of an elementwise node.
    pub fn node(&mut self, lower: &mut Lower<'_>, id: NodeId) -> Result<usize, CodegenError> {
        let operands = lower.graph.operands(id);
        let op = lower.graph.op(id).clone();
        let term = match &op {
            Op::AddBias(_) => {
                let x = self.read(lower, operands[0])?;
                Term::Add(x, self.column(lower.view(operands[1])?))
            }
            Op::Scale(scale) => {
                let x = self.read(lower, operands[0])?;
                let scales = lower.view(operands[1])?;
                let offset = scales.offset + scale.row * scales.stride;
                let row = View {
                    offset,
                    rows: 1,
                    ..scales
                };
                Term::Mul(x, self.column(row))
            }
            Op::PadColumns(pad) => Term::Padded {
                operand: self.operand(lower.view(operands[0])?),
                start: pad.start,
            },
            op => {
                let mut terms = Vec::with_capacity(operands.len());
                for operand in operands {
                    terms.push(self.read(lower, operand)?);
                }
                match self.function(op, &terms) {
                    Some(term) => term,
                    None => return Err(lower.error(id, "it is no function of single elements")),
                }
            }
        };
        Ok(self.term(term))
    }

    /// An op on terms, all at the same place.
    fn function(&mut self, op: &Op, terms: &[usize]) -> Option<Term> {
        let x = *terms.first()?;
        Some(match op {
            Op::Add(_) => Term::Add(x, terms[1]),
            Op::Mul(_) => Term::Mul(x, terms[1]),
            Op::Silu(_) => Term::Act(Activation::Silu, x),
            Op::GeluTanh(_) => Term::Act(Activation::GeluTanh, x),
            Op::Softcap(op) => Term::Softcap(op.cap, x),
            Op::Gate(op) => Term::Mul(self.term(Term::Act(op.act, x)), terms[1]),
            Op::ActivationGrad(op) => Term::Mul(self.term(Term::ActSlope(op.act, x)), terms[1]),
            Op::SoftcapGrad(op) => Term::Mul(self.term(Term::SoftcapSlope(op.cap, x)), terms[1]),
            Op::GateGrad(op) => {
                let slope = self.term(Term::ActSlope(op.act, x));
                let pull = self.term(Term::Mul(slope, terms[1]));
                Term::Mul(pull, terms[2])
            }
            Op::Round(op) => rounded(op.to, x),
            Op::Cast(op) => rounded(op.to, x),
            Op::WeightedSum(op) => {
                let factors = op.factors.iter().copied();
                Term::Sum(factors.zip(terms.iter().copied()).collect())
            }
            _ => return None,
        })
    }
}

fn rounded(to: DType, x: usize) -> Term {
    match to {
        DType::F32 => Term::Sum(vec![(1.0, x)]),
        to => Term::Round(to, x),
    }
}
