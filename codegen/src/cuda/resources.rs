//! Reads what a kernel uses from the log of ptxas.

use rabitc_rbx::gpu::Resources;

/// The resources of the one kernel that `log` is about; `None` if it does not say.
///
/// The lines are of the form
/// `ptxas info : Used 40 registers, used 1 barriers, 1024 bytes smem` and
/// `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`.
pub fn parse(log: &str) -> Option<Resources> {
    let mut resources = Resources::default();
    let mut found = false;
    for line in log.lines() {
        if let Some((_, used)) = line.split_once("Used ") {
            found = true;
            for part in used.split(',') {
                set(part, "registers", &mut resources.registers);
                set(part, "bytes smem", &mut resources.shared);
            }
        }
        if line.contains("bytes stack frame") {
            for part in line.split(',') {
                set(part, "bytes stack frame", &mut resources.stack);
                set(part, "bytes spill stores", &mut resources.spill_stores);
                set(part, "bytes spill loads", &mut resources.spill_loads);
            }
        }
    }
    found.then_some(resources)
}

/// Takes the number before `unit`, if `part` ends in it.
fn set(part: &str, unit: &str, value: &mut u32) {
    let number = part.trim().strip_suffix(unit).map(str::trim);
    let digits = number.and_then(|n| n.rsplit(' ').next());
    if let Some(n) = digits.and_then(|d| d.parse().ok()) {
        *value = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_their_absence_is_noticed() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'k' for 'sm_90'\n\
                   ptxas info    : Function properties for k\n\
                   \x20   16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 400 bytes cmem[0]\n";
        let expected = Resources {
            registers: 40,
            shared: 1024,
            spill_stores: 8,
            spill_loads: 12,
            stack: 16,
        };
        assert_eq!(parse(log), Some(expected));
        assert_eq!(parse("warning: something else"), None);
    }
}
