//! Random programs: machine code against the interpreter.

use crate::common::{Subject, WIDTH};
use proptest::prelude::*;
use rabitc_codegen::kir::{BinOp, Builder, CmpOp, Elem, Inst, Kernel, Ty, Val, Var};

/// Bytes that a program may read at its input and write at its output.
const BUFFER: i64 = 1024;

/// Writes a program from random numbers.
struct Writer {
    b: Builder,
    choices: std::vec::IntoIter<u32>,
    /// Values in scope.
    values: Vec<Val>,
    vars: Vec<(Var, Ty)>,
    input: Val,
    output: Val,
}

impl Writer {
    fn choose(&mut self, n: usize) -> usize {
        self.choices.next().unwrap_or(0) as usize % n.max(1)
    }

    /// A value of type `ty`: one in scope, or a constant.
    fn pick(&mut self, ty: Ty) -> Val {
        let fitting = self.values.iter().copied().filter(|&v| self.b.ty(v) == ty);
        let fitting: Vec<Val> = fitting.collect();
        let choice = self.choose(fitting.len() + 1);
        match fitting.get(choice) {
            Some(&v) => v,
            None if ty.elem == Elem::F32 => {
                let x = self.choose(9) as f32 - 4.0;
                self.b.float_of(ty, x)
            }
            None => {
                let x = self.choose(70) as i64 - 3;
                self.b.int_of(ty, x)
            }
        }
    }

    fn types() -> [Ty; 7] {
        let vector = |elem| Ty::vector(elem, WIDTH);
        [
            Ty::I64,
            Ty::I32,
            vector(Elem::I8),
            vector(Elem::I16),
            vector(Elem::I32),
            vector(Elem::F32),
            Ty::F32,
        ]
    }

    fn any_type(&mut self) -> Ty {
        let choice = self.choose(7);
        Self::types()[choice]
    }

    /// An address in a buffer with room for a vector.
    fn address(&mut self, base: Val) -> Val {
        let index = self.pick(Ty::I64);
        let limit = self.b.int(BUFFER / 32 - 1);
        let index = self.b.and(index, limit);
        self.b.at(base, index, 16)
    }

    fn statement(&mut self, depth: usize) {
        match self.choose(12) {
            0 => self.loop_(depth),
            1 => self.branch(depth),
            2 => {
                let ty = self.any_type();
                let at = self.address(self.output);
                let v = self.pick(ty);
                let offset = self.choose(400) as i32;
                self.b.store(at, offset, v);
            }
            3 => {
                let ty = self.any_type();
                let at = self.address(self.input);
                let at = if ty.elem == Elem::F32 { self.input } else { at };
                let v = self.b.load(ty, at, 0);
                self.values.push(v);
            }
            4 => {
                let ty = self.any_type();
                let v = self.pick(ty);
                let var = self.b.var(v);
                self.vars.push((var, ty));
            }
            5 if !self.vars.is_empty() => {
                let choice = self.choose(self.vars.len());
                let (var, ty) = self.vars[choice];
                let v = self.pick(ty);
                self.b.set(var, v);
            }
            6 if !self.vars.is_empty() => {
                let choice = self.choose(self.vars.len());
                let v = self.b.get(self.vars[choice].0);
                self.values.push(v);
            }
            _ => self.arithmetic(),
        }
    }

    fn arithmetic(&mut self) {
        let ty = self.any_type();
        let (x, y) = (self.pick(ty), self.pick(ty));
        let v = match ty.elem {
            Elem::F32 => self.float(ty, x, y),
            _ => self.integer(ty, x, y),
        };
        self.values.push(v);
    }

    /// Nothing that can become infinite, for NaN may differ in its bits.
    fn float(&mut self, ty: Ty, x: Val, y: Val) -> Val {
        match self.choose(5) {
            0 => self.b.add(x, y),
            1 => self.b.sub(x, y),
            2 => {
                let mask = self.b.cmp(CmpOp::Lt, x, y);
                self.b.select(mask, x, y)
            }
            3 if ty.lanes == 1 => self.b.splat(x),
            3 => self.b.extract(x, 2),
            _ => self.b.un(rabitc_codegen::kir::UnOp::Neg, x),
        }
    }

    fn integer(&mut self, ty: Ty, x: Val, y: Val) -> Val {
        let ops = [
            BinOp::Add,
            BinOp::Sub,
            BinOp::And,
            BinOp::Xor,
            BinOp::Min,
            BinOp::Mul,
        ];
        match self.choose(10) {
            op @ 0..=5 => {
                let no_product = ty.lanes > 1 && ty.elem == Elem::I8;
                let op = if no_product { ops[op % 5] } else { ops[op] };
                self.b.emit(ty, Inst::Bin(op, x, y))
            }
            6 if ty.elem != Elem::I8 => {
                let by = self.choose(8 * ty.elem.bytes()) as u8;
                self.b.shl(x, by)
            }
            7 if ty.elem != Elem::I8 => {
                let by = self.choose(8 * ty.elem.bytes()) as u8;
                self.b.shr(x, by)
            }
            8 => {
                let mask = self.b.cmp(CmpOp::Le, x, y);
                self.b.select(mask, y, x)
            }
            9 if ty == Ty::I32 => self.b.extend(x),
            9 if ty == Ty::I64 => self.b.trunc(x),
            _ => self.b.cmp(CmpOp::Eq, x, y),
        }
    }

    fn loop_(&mut self, depth: usize) {
        if depth == 0 {
            return;
        }
        let turns = self.choose(4) as i64;
        let (start, end) = (self.b.int(0), self.pick(Ty::I64));
        let limit = self.b.int(turns);
        let end = self.b.min(end, limit);
        let step = 1 + self.choose(2) as i64;
        // The body is written with the writer's own builder: a closure cannot borrow it twice.
        let (values, vars) = (self.values.clone(), self.vars.clone());
        self.nested(
            |writer, inner| {
                writer
                    .b
                    .for_range(start, end, step, |b, i| inner(b, Some(i)));
            },
            depth,
        );
        (self.values, self.vars) = (values, vars);
    }

    fn branch(&mut self, depth: usize) {
        if depth == 0 {
            return;
        }
        let cond = self.pick(Ty::I64);
        let (values, vars) = (self.values.clone(), self.vars.clone());
        self.nested(
            |writer, inner| writer.b.if_then(cond, |b| inner(b, None)),
            depth,
        );
        (self.values, self.vars) = (values, vars);
    }

    /// Runs `open`, which is given the writer of the block inside.
    fn nested(
        &mut self,
        open: impl FnOnce(&mut Holder, &mut dyn FnMut(&mut Builder, Option<Val>)),
        depth: usize,
    ) {
        let mut holder = Holder {
            b: std::mem::replace(&mut self.b, Builder::new("unused", WIDTH)),
        };
        let mut inner = |b: &mut Builder, counter: Option<Val>| {
            std::mem::swap(&mut self.b, b);
            self.values.extend(counter);
            for _ in 0..self.choose(8) {
                self.statement(depth - 1);
            }
            std::mem::swap(&mut self.b, b);
        };
        open(&mut holder, &mut inner);
        self.b = holder.b;
    }
}

/// Holds the builder while the writer has none.
struct Holder {
    b: Builder,
}

fn program(choices: Vec<u32>) -> Kernel {
    let mut b = Builder::new("random", WIDTH);
    let (input, output) = (b.input("input"), b.output("output"));
    let mut values = vec![b.scalar("x"), b.scalar("y")];
    let (begin, end) = b.range();
    values.extend([begin, end]);
    let mut writer = Writer {
        b,
        choices: choices.into_iter(),
        values,
        vars: Vec::new(),
        input,
        output,
    };
    while writer.choices.len() > 0 {
        writer.statement(3);
    }
    // What the variables hold in the end is part of the result.
    for (i, (var, _)) in writer.vars.clone().into_iter().enumerate().take(32) {
        let v = writer.b.get(var);
        writer.b.store(output, 16 * i as i32, v);
    }
    writer.b.finish()
}

/// The input: bytes that are also small floats.
fn input() -> Vec<u8> {
    let floats = (0..BUFFER as u32 / 4).map(|i| (i as f32 - 100.0) / 8.0);
    floats.flat_map(f32::to_le_bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_agree(
        choices in prop::collection::vec(any::<u32>(), 1..400),
        x in -5i64..100,
        y in any::<i64>(),
    ) {
        let subject = Subject::new(program(choices));
        subject.agree(&[input(), vec![0x11; BUFFER as usize]], &[x, y], 0..5);
    }
}
