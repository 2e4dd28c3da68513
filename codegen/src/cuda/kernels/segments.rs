//! Segments of rows that are shared out among clusters.

/// A C expression that picks the value of a segment by the number of the `cluster`, where segment s has
/// `clusters[s]` of them, one after the other. There is at least one segment.
pub(super) fn by_cluster(clusters: &[usize], value: impl Fn(usize) -> usize) -> String {
    let mut text = value(clusters.len() - 1).to_string();
    let mut end: usize = clusters.iter().sum();
    for s in (0..clusters.len() - 1).rev() {
        end -= clusters[s + 1];
        text = format!("cluster < {end} ? {} : {text}", value(s));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::by_cluster;

    #[test]
    fn every_cluster_finds_its_segment() {
        assert_eq!(by_cluster(&[4], |s| s + 7), "7");
        let text = by_cluster(&[4, 2, 1], |s| s + 7);
        assert_eq!(text, "cluster < 4 ? 7 : cluster < 6 ? 8 : 9");
    }
}
