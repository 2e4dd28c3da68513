//! The table that `compile` prints at the end.

use std::collections::BTreeMap;

use rabitc_rbx::Layer;

use super::Summary;

/// Layers, shapes, bits per weight, kernels, sizes and times.
pub fn table(summary: &Summary) -> String {
    let mut out = String::new();
    let rows = group(&summary.manifest.layers);
    out.push_str("| layers | form | outputs × inputs | bits/weight | MiB before | MiB after | kernel |\n");
    out.push_str("|---|---|---|---:|---:|---:|---|\n");
    for (title, count, layer) in rows {
        let segments: Vec<_> = layer.segments.iter().map(usize::to_string).collect();
        let weights = layer.segments.iter().sum::<usize>() as f64 * layer.d_in as f64;
        let bits = layer.bytes as f64 * 8.0 / weights.max(1.0);
        let kernel = layer.kernels.last().map_or("", String::as_str);
        out.push_str(&format!(
            "| {title}{} | {}{} | {} × {} | {bits:.2} | {:.2} | {:.2} | `{kernel}` |\n",
            if count > 1 { format!(" ({count}×)") } else { String::new() },
            layer.form,
            if layer.paths > 0 { format!(", {} paths", layer.paths) } else { String::new() },
            segments.join("+"),
            layer.d_in,
            mib(layer.source_bytes * count),
            mib(layer.bytes * count),
        ));
    }
    out.push_str(&format!(
        "\ncheckpoint {:.2} MiB, artifact {:.2} MiB; code for {}\n",
        mib(summary.source_bytes),
        mib(summary.output_bytes),
        summary.manifest.targets.iter().map(|t| t.level.name()).collect::<Vec<_>>().join(", "),
    ));
    let times: Vec<_> = summary
        .times
        .iter()
        .map(|(name, t)| format!("{name} {:.2} s", t.as_secs_f64()))
        .collect();
    out.push_str(&format!("{}\n", times.join(", ")));
    out
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 20) as f64
}

/// Layers that differ in nothing but numbers in their names, as one row, in order of appearance.
fn group(layers: &[Layer]) -> Vec<(String, u64, &Layer)> {
    let mut rows: Vec<(String, u64, &Layer)> = Vec::new();
    let mut index: BTreeMap<(String, Vec<usize>, usize, usize), usize> = BTreeMap::new();
    for layer in layers {
        let parts = layer.node.split('.');
        let numbers = |p: &str| p.chars().all(|c| c.is_ascii_digit());
        let title: Vec<_> = parts.map(|p| if numbers(p) { "*" } else { p }).collect();
        let title = title.join(".");
        let key = (title.clone(), layer.segments.clone(), layer.d_in, layer.paths);
        match index.get(&key) {
            Some(row) => rows[*row].1 += 1,
            None => {
                index.insert(key, rows.len());
                rows.push((title, 1, layer));
            }
        }
    }
    rows
}
