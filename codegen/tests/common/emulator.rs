//! Runs kernels of another architecture: an executable of a few instructions around the kernel,
//! under user-mode QEMU.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Where the executable's only segment is loaded.
const BASE: u64 = 0x40_0000;
/// Sizes of an ELF header and of a program header.
const HEADERS: usize = 64 + 56;
/// Where the instructions begin, and the literals that they load.
const START: usize = 128;
const LITERALS: usize = START + 64;
/// Where the kernel begins.
const KERNEL: usize = START + 128;

/// QEMU for aarch64, if it is installed. Says so if not, once.
pub fn qemu() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let names = ["qemu-aarch64-static", "qemu-aarch64"];
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let mut files = folders.iter().flat_map(|f| names.map(|name| f.join(name)));
        let found = files.find(|file| file.is_file());
        if found.is_none() {
            println!(
                "there is no {}: aarch64 code is compiled and not run",
                names[0]
            );
        }
        found
    };
    FOUND.get_or_init(find).as_ref()
}

/// Calls an aarch64 kernel on copies of `buffers` and gives them as it leaves them.
pub fn run(code: &[u8], buffers: &[Vec<u8>], scalars: &[i64], arguments: [i64; 3]) -> Vec<Vec<u8>> {
    let qemu = qemu().expect("the caller has asked for it");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernel");
    std::fs::write(&file, executable(code, buffers, scalars, arguments)).unwrap();
    // QEMU asks for the permission to execute it.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
    let output = Command::new(qemu).args(["-cpu", "max"]).arg(&file).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut rest = &output.stdout[..];
    let results = buffers.iter().map(|buffer| {
        let (result, after) = rest.split_at(buffer.len());
        rest = after;
        result.to_vec()
    });
    results.collect()
}

/// An executable that calls the kernel and writes the buffers to its standard output.
fn executable(
    code: &[u8],
    buffers: &[Vec<u8>],
    scalars: &[i64],
    [begin, end, worker]: [i64; 3],
) -> Vec<u8> {
    let mut image = vec![0; KERNEL];
    image.extend(code);
    image.resize(image.len().next_multiple_of(64), 0);
    let scalars_at = BASE + image.len() as u64;
    image.extend(scalars.iter().flat_map(|x| x.to_le_bytes()));
    let ptrs_at = BASE + image.len() as u64;
    // One past an aligned address, so that no kernel gets by on alignment.
    let buffers_at = (ptrs_at + 8 * buffers.len() as u64).next_multiple_of(64) + 1;
    let mut at = buffers_at;
    for buffer in buffers {
        image.extend(at.to_le_bytes());
        at += buffer.len() as u64;
    }
    image.resize((buffers_at - BASE) as usize, 0);
    image.extend(buffers.concat());

    let literals = [ptrs_at, scalars_at, begin as u64, end as u64, worker as u64];
    let after = [BASE + KERNEL as u64, buffers_at, at - buffers_at];
    let literals: Vec<u8> = literals
        .into_iter()
        .chain(after)
        .flat_map(u64::to_le_bytes)
        .collect();
    image[LITERALS..KERNEL].copy_from_slice(&literals);
    let words = instructions();
    let words: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    image[START..LITERALS].copy_from_slice(&words);
    let headers = headers(image.len() as u64);
    image[..HEADERS].copy_from_slice(&headers);
    image
}

/// Calls the kernel, writes the buffers, ends.
fn instructions() -> [u32; 16] {
    const WRITE: u32 = 64;
    const EXIT: u32 = 93;
    const SVC: u32 = 0xd400_0001;
    const NOP: u32 = 0xd503_201f;
    let load = |place: u32, register: u32, literal: u32| {
        let words = (LITERALS - START) as u32 / 4 + 2 * literal - place;
        0x5800_0000 | words << 5 | register
    };
    let set = |register: u32, x: u32| 0xd280_0000 | x << 5 | register;
    let call_x9 = 0xd63f_0120;
    [
        load(0, 0, 0),
        load(1, 1, 1),
        load(2, 2, 2),
        load(3, 3, 3),
        load(4, 4, 4),
        load(5, 9, 5),
        call_x9,
        set(0, 1),
        load(8, 1, 6),
        load(9, 2, 7),
        set(8, WRITE),
        SVC,
        set(0, 0),
        set(8, EXIT),
        SVC,
        NOP,
    ]
}

/// The headers of an ELF file for Linux on aarch64 with one segment: everything.
fn headers(len: u64) -> Vec<u8> {
    const AARCH64: u16 = 183;
    const READ_WRITE_EXECUTE: u32 = 7;
    let mut h = b"\x7fELF\x02\x01\x01".to_vec();
    h.resize(16, 0);
    h.extend([2u16, AARCH64].into_iter().flat_map(u16::to_le_bytes));
    h.extend(1u32.to_le_bytes());
    let places = [BASE + START as u64, 64, 0];
    h.extend(places.into_iter().flat_map(u64::to_le_bytes));
    h.extend(0u32.to_le_bytes());
    h.extend(
        [64u16, 56, 1, 0, 0, 0]
            .into_iter()
            .flat_map(u16::to_le_bytes),
    );
    h.extend(
        [1, READ_WRITE_EXECUTE]
            .into_iter()
            .flat_map(u32::to_le_bytes),
    );
    h.extend(
        [0, BASE, BASE, len, len, 4096]
            .into_iter()
            .flat_map(u64::to_le_bytes),
    );
    h
}
