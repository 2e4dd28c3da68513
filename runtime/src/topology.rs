//! How many threads a memory-bound computation can use here.
//!
//! Two SMT siblings share one core's path to memory, so a second thread on it adds little and
//! disturbs its neighbour: cores count once. The process's affinity mask and its CPU quota bound
//! the number, since threads beyond them only take turns.

use std::collections::BTreeSet;
use std::path::Path;

/// A CPU number beyond any kernel's limit; a list that names one is not believed.
const MAX_CPU: usize = 1 << 16;

/// The number of physical cores this process may use, at least 1.
///
/// Where the system does not tell (anything but Linux, or no `/sys`), it is
/// [`std::thread::available_parallelism`], which counts SMT siblings separately.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = allowed_cpus(Path::new("/proc"))
        .and_then(|cpus| physical_cores(&cpus, Path::new("/sys/devices/system/cpu")));
    cores.map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// The CPUs in this thread's affinity mask.
fn allowed_cpus(proc: &Path) -> Option<Vec<usize>> {
    let status = std::fs::read_to_string(proc.join("thread-self/status"))
        .or_else(|_| std::fs::read_to_string(proc.join("self/status")))
        .ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_cpu_list(list)
}

/// How many cores the CPUs `cpus` belong to, by the sibling lists under `sysfs`.
fn physical_cores(cpus: &[usize], sysfs: &Path) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for cpu in cpus {
        let topology = sysfs.join(format!("cpu{cpu}/topology"));
        // The second name is what kernels before 5.3 call the first.
        let siblings = std::fs::read_to_string(topology.join("core_cpus_list"))
            .or_else(|_| std::fs::read_to_string(topology.join("thread_siblings_list")))
            .ok()?;
        let siblings = parse_cpu_list(&siblings)?;
        if !siblings.contains(cpu) {
            return None;
        }
        cores.insert(siblings);
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Parses the kernel's list form, such as `0-3,8,10-11`.
fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine(file: &str, siblings: &[(usize, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, list) in siblings {
            let topology = dir.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join(file), format!("{list}\n")).unwrap();
        }
        dir
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(
            parse_cpu_list("0-3,8,10-11\n"),
            Some(vec![0, 1, 2, 3, 8, 10, 11])
        );
        assert_eq!(parse_cpu_list("\t5"), Some(vec![5]));
        for bad in ["", "a", "3-1", "1,", "0-99999999999", "1-2-3"] {
            assert_eq!(parse_cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn siblings_count_once() {
        let smt = [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")];
        for file in ["core_cpus_list", "thread_siblings_list"] {
            let dir = machine(file, &smt);
            assert_eq!(physical_cores(&[0, 1, 2, 3], dir.path()), Some(2));
            assert_eq!(physical_cores(&[0, 2], dir.path()), Some(1));
            assert_eq!(physical_cores(&[2, 3], dir.path()), Some(2));
        }
    }

    #[test]
    fn unknown_topology_is_not_guessed() {
        let dir = machine("core_cpus_list", &[(0, "0"), (1, "7")]);
        assert_eq!(physical_cores(&[0, 4], dir.path()), None);
        assert_eq!(physical_cores(&[1], dir.path()), None);
        assert_eq!(physical_cores(&[], dir.path()), None);
    }

    #[test]
    fn affinity_is_read_from_the_status_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("self")).unwrap();
        let status = "Name:\tx\nCpus_allowed:\t5\nCpus_allowed_list:\t0,2\n";
        fs::write(dir.path().join("self/status"), status).unwrap();
        assert_eq!(allowed_cpus(dir.path()), Some(vec![0, 2]));
    }

    #[test]
    fn the_default_is_possible_here() {
        let threads = default_threads();
        assert!(threads >= 1);
        assert!(threads <= std::thread::available_parallelism().unwrap().get());
    }
}
