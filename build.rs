//! Makes the list of measured tables that are part of the program: every `data/tune/*.json`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's folder");
    let folder = Path::new(&root).join("data/tune");
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(&folder).expect("data/tune is a part of the source");
    let files = entries.map(|e| e.expect("data/tune can be listed").path());
    let mut tables: Vec<PathBuf> = files
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .collect();
    tables.sort();
    let mut list = String::from("&[\n");
    for table in tables {
        println!("cargo::rerun-if-changed={}", table.display());
        let name = table.file_name().and_then(|n| n.to_str());
        let name = name.expect("a table's name is text");
        let path = table.display().to_string();
        writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("a string takes text");
    }
    list.push(']');
    let out = env::var("OUT_DIR").expect("cargo names a folder for what is generated");
    fs::write(Path::new(&out).join("tune_tables.rs"), list).expect("that folder can be written");
}
