//! Tests of what a product is held against.

use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::*;

fn task(gate: bool) -> Task {
    let layout = GpuLayout {
        stored: SignLayout {
            d_in: 300,
            paths: 2,
            segments: vec![40, 40],
            row_tiles: 1,
        },
        paired: gate,
    };
    let columns = if gate { 40 } else { 80 };
    Task {
        layout,
        tokens: 2,
        rounding: Rounding::Planes(16),
        x_stride: 304,
        norm: Some(1e-5),
        gate: gate.then_some(Activation::Silu),
        residual: (!gate).then_some(96),
        columns,
    }
}

fn problem(task: &Task) -> Problem {
    Problem::new(task, Rc::new(Stored::random(&task.layout.stored, 1)))
}

/// The result, plainly.
fn result(problem: &Problem) -> Vec<f32> {
    let columns = problem.task.columns;
    let element = |token: usize, column: usize| {
        let (segment, row) = match problem.task.gate {
            Some(_) => (0, column),
            None => (column / 40, column % 40),
        };
        problem.expected(token, segment, row, column).0 as f32
    };
    let tokens = 0..problem.task.tokens;
    let all = tokens.flat_map(|t| (0..columns).map(move |c| (t, c)));
    all.map(|(t, c)| element(t, c)).collect()
}

/// Checks all tokens of a result.
fn check(problem: &Problem, out: &[f32]) -> Result<()> {
    let columns = problem.task.columns;
    let mut tokens = problem.tokens();
    tokens.try_for_each(|token| problem.check(token, &out[token * columns..][..columns]))
}

#[test]
fn the_right_result_passes_and_wrong_ones_do_not() {
    for gate in [false, true] {
        let problem = problem(&task(gate));
        let mut out = result(&problem);
        check(&problem, &out).unwrap();
        let last = out.len() - 1;
        for (at, wrong) in [(0, out[0] + 20.0), (last, out[last] - 20.0), (0, f32::NAN)] {
            let right = std::mem::replace(&mut out[at], wrong);
            let message = check(&problem, &out).unwrap_err().to_string();
            assert!(message.contains("column"), "{message}");
            out[at] = right;
        }
    }
}

#[test]
fn inputs_lie_as_far_apart_as_the_task_says() {
    let problem = problem(&task(false));
    let x = problem.input();
    assert_eq!(x.len(), 608);
    assert_eq!(x[300..304], [0.0; 4]);
    assert_eq!(x[304..604], problem.stored.layer.x[300..600]);
    assert_eq!(problem.residual().len(), 192);
}

#[test]
fn many_tokens_are_looked_at_from_the_first_to_the_last() {
    for rounding in [Rounding::Planes(8), Rounding::Half] {
        let many = Task {
            tokens: 100,
            rounding,
            ..task(false)
        };
        let problem = problem(&many);
        let mut out = result(&problem);
        check(&problem, &out).unwrap();
        for at in [0, out.len() - 1] {
            let right = std::mem::replace(&mut out[at], 1e3);
            check(&problem, &out).unwrap_err();
            out[at] = right;
        }
        // Every token has the result of another.
        out.rotate_left(problem.task.columns);
        check(&problem, &out).unwrap_err();
    }
}

#[test]
fn fewer_bits_may_be_further_off() {
    let u = [1.0; 256];
    let [fine, coarse] = [16, 8].map(|planes| quantisation(&u, planes));
    assert!((coarse - 128.0 / 127.0).abs() < 0.01, "{coarse}");
    assert!(fine < coarse / 100.0);
}

#[test]
fn f16_is_between_16_bits_and_8() {
    let u = [1.0; 256];
    let [fine, coarse] = [16, 8].map(|planes| quantisation(&u, planes));
    let half = halves(&u, 2);
    assert!(fine < half && half < coarse, "{fine} {half} {coarse}");
}
