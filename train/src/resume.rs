//! What must be the same when a run goes on.

use crate::store::{HeldState, RunState};

/// Why the run `given` is not the one that was `saved`, if it is not: what differs. When a run
/// measures and saves, and what runs it, may change; how far it is does not count.
pub(crate) fn difference(saved: &RunState, given: &RunState) -> Option<String> {
    let settings = saved.recipe.differences(&given.recipe);
    if !settings.is_empty() {
        return Some(format!(
            "cannot go on with other settings (saved and given): {}",
            settings.join("; ")
        ));
    }
    if saved.buffers != given.buffers {
        let (theirs, ours) = (&saved.buffers, &given.buffers);
        return Some(format!(
            "cannot go on with another --rope-precision: its rotary frequencies are {theirs}, not \
             {ours}"
        ));
    }
    let texts = [
        (
            &saved.teacher,
            &given.teacher,
            "was trained towards another teacher",
        ),
        (&saved.text, &given.text, "was trained on another text"),
    ];
    if let Some((.., what)) = texts.into_iter().find(|(a, b, _)| a != b) {
        return Some(what.into());
    }
    if saved.student != given.student {
        return Some("started from another --student".into());
    }
    measured(saved.held.as_ref(), given.held.as_ref())
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
