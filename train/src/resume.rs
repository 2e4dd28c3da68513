//! What must be the same when a run goes on.

use crate::error::TrainError;
use crate::job::Job;
use crate::store::{HeldState, RunState};
use crate::teacher::Teacher;

/// Why `job` is not the run that `state` is of, if it is not: what differs, saved before given.
/// When a run measures and saves, and what runs it, may change.
pub(crate) fn difference(job: &Job<'_>, state: &RunState) -> Result<Option<String>, TrainError> {
    let settings = state.recipe.differences(job.recipe);
    if !settings.is_empty() {
        return Ok(Some(format!(
            "cannot go on with other settings (saved and given): {}",
            settings.join("; ")
        )));
    }
    let (ours, theirs) = (job.teacher.buffers.name(), &state.buffers);
    if theirs != ours {
        return Ok(Some(format!(
            "cannot go on with another --rope-precision: its rotary frequencies are {theirs}, not \
             {ours}"
        )));
    }
    if state.teacher != job.teacher.fingerprint()? {
        let name = &job.teacher.name;
        return Ok(Some(format!(
            "was trained towards another teacher than {name}"
        )));
    }
    if state.student != job.student.map(Teacher::fingerprint).transpose()? {
        return Ok(Some("started from another --student".into()));
    }
    if state.text != job.corpus.hash() {
        return Ok(Some("was trained on another text".into()));
    }
    Ok(measured(state.held.as_ref(), job.held_state().as_ref()))
}

/// What differs in what the run is measured on: measurements of one run are of one text.
fn measured(saved: Option<&HeldState>, given: Option<&HeldState>) -> Option<String> {
    let (saved, given) = match (saved, given) {
        (None, None) => return None,
        (None, Some(_)) => return Some("was begun without a validation text".into()),
        (Some(_), None) => return Some("is measured on a validation text: give it again".into()),
        (Some(saved), Some(given)) => (saved, given),
    };
    if saved.text != given.text {
        return Some("is measured on another validation text".into());
    }
    let windows = |most: Option<usize>| most.map_or("all".into(), |n| n.to_string());
    let settings = [
        (
            "--window",
            saved.window.to_string(),
            given.window.to_string(),
        ),
        ("--max-windows", windows(saved.most), windows(given.most)),
    ];
    let differ = settings.into_iter().find(|(_, a, b)| a != b);
    differ.map(|(option, a, b)| {
        format!("cannot go on with another {option} (saved and given): {a} and {b}")
    })
}
