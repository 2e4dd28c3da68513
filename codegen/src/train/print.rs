//! A plan as text: one step a line, for people and snapshots.

use std::fmt;

use super::step::{Gemm, Kernel, KernelStep, Map, Place, Plan, Step, Term, View};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Gemm(gemm) => self.gemm(f, gemm),
                Step::Map(map) => self.map(f, map),
                Step::Kernel(kernel) => self.kernel(f, kernel),
            }?;
        }
        for (name, value) in &self.outputs {
            writeln!(f, "output {name} = {}", self.name(*value))?;
        }
        Ok(())
    }
}

impl Plan {
    /// A value with its element type.
    fn name(&self, value: usize) -> String {
        let value = &self.values[value];
        let mark = match &value.place {
            Place::Weight(_) => "weight ",
            Place::Input(_) => "input ",
            Place::Constant(_) => "constant ",
            Place::Gradient(_) | Place::Arena(_) => "",
        };
        format!("{mark}{}:{}", value.name, value.dtype)
    }

    /// A value, and which of its columns if not all.
    fn view(&self, view: View) -> String {
        let (value, name) = (&self.values[view.value], self.name(view.value));
        let whole = view.columns == value.columns && view.rows == value.rows;
        match whole {
            true => name,
            false => format!("{name}[{}+{}]", view.offset, view.columns),
        }
    }

    fn views(&self, views: &[View]) -> String {
        let views: Vec<_> = views.iter().map(|v| self.view(*v)).collect();
        views.join(", ")
    }

    fn gemm(&self, f: &mut fmt::Formatter<'_>, gemm: &Gemm) -> fmt::Result {
        let mark = |transposed| if transposed { "ᵀ" } else { "" };
        let (a, b) = (self.view(gemm.a), self.view(gemm.b));
        let (ta, tb) = (mark(gemm.transpose_a), mark(gemm.transpose_b));
        let sign = if gemm.accumulate { "+=" } else { "=" };
        writeln!(f, "{} {sign} {a}{ta} · {b}{tb}", self.view(gemm.c))
    }

    fn kernel(&self, f: &mut fmt::Formatter<'_>, step: &KernelStep) -> fmt::Result {
        let (results, operands) = (self.views(&step.results), self.views(&step.operands));
        let joined = match &step.kernel {
            Kernel::RmsNormOfMap(_, map) | Kernel::RmsNormGradsInMap(_, map) => Some(map),
            _ => None,
        };
        if let Some(map) = joined {
            write!(f, "with ")?;
            self.map(f, map)?;
        }
        let sign = if step.accumulate { "+=" } else { "=" };
        writeln!(f, "{results} {sign} {}({operands})", step.kernel.name())
    }

    fn map(&self, f: &mut fmt::Formatter<'_>, map: &Map) -> fmt::Result {
        for store in &map.stores {
            let sign = if store.accumulate { "+=" } else { "=" };
            let value = self.term(map, store.term);
            writeln!(f, "{} {sign} {value}", self.view(store.to))?;
        }
        Ok(())
    }

    /// A term written out.
    fn term(&self, map: &Map, term: usize) -> String {
        let of = |term: &usize| self.term(map, *term);
        let operand = |o: &usize| self.view(map.operands[*o]);
        match &map.terms[term] {
            Term::Load { operand: o } => operand(o),
            Term::Column { operand: o } => format!("{}[column]", operand(o)),
            Term::Padded { operand: o, start } => format!("pad({}, {start})", operand(o)),
            Term::Add(a, b) => format!("({} + {})", of(a), of(b)),
            Term::Mul(a, b) => format!("{} · {}", of(a), of(b)),
            Term::Sum(parts) => {
                let parts = parts.iter().map(|(factor, term)| match *factor == 1.0 {
                    true => of(term),
                    false => format!("{factor} {}", of(term)),
                });
                format!("({})", parts.collect::<Vec<_>>().join(" + "))
            }
            Term::Act(act, x) => format!("{}({})", act.name(), of(x)),
            Term::ActSlope(act, x) => format!("{}′({})", act.name(), of(x)),
            Term::Softcap(cap, x) => format!("softcap({cap}, {})", of(x)),
            Term::SoftcapSlope(cap, x) => format!("softcap′({cap}, {})", of(x)),
            Term::Round(to, x) => format!("{to}({})", of(x)),
        }
    }
}
