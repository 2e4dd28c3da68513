//! The layers that a model wants tiles for.

use std::path::Path;

use anyhow::Result;
use rabitc_frontend::graph_of_config;
use rabitc_ir::Op;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::Options;
use rabitc_passes::tiles::LayerShape;
use rabitc_rbx::Manifest;

/// A shape, and how much of a model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The shape.
    pub shape: LayerShape,
    /// Layers of that shape.
    pub layers: usize,
}

/// The layers of a model that is compiled from a dense checkpoint with this `config.json`. Runs the
/// frontend and the passes; there are no weights.
///
/// # Errors
/// A file that cannot be read, a configuration or options that are refused.
pub fn of_config(config: &Path, options: &Options) -> Result<Vec<Demand>> {
    let mut graph = graph_of_config(config)?;
    rabitc_passes::run(&mut graph, options, &mut |_, _, _| Ok(()))?;
    let shapes = graph.order().into_iter().filter_map(|id| {
        let Op::ResidualBinary(op) = graph.op(id) else {
            return None;
        };
        Some(LayerShape {
            d_in: graph.ty(graph.operands(id)[0]).last()?,
            segments: op.segments.clone(),
            paths: op.paths,
            activations: op.activations.name(),
        })
    });
    Ok(count(shapes))
}

/// The residual-binary layers of an artifact, as they would be with these activations.
pub fn of_artifact(manifest: &Manifest, activations: Activations) -> Vec<Demand> {
    let layers = manifest.layers.iter().filter(|l| l.paths > 0);
    count(layers.map(|layer| LayerShape {
        d_in: layer.d_in,
        segments: layer.segments.clone(),
        paths: layer.paths,
        activations: activations.name(),
    }))
}

/// Every shape once, in order of first appearance.
fn count(shapes: impl Iterator<Item = LayerShape>) -> Vec<Demand> {
    let mut demands: Vec<Demand> = Vec::new();
    for shape in shapes {
        match demands.iter_mut().find(|d| d.shape == shape) {
            Some(demand) => demand.layers += 1,
            None => demands.push(Demand { shape, layers: 1 }),
        }
    }
    demands
}

/// The packed layout of a layer with so many row tiles.
pub fn layout(shape: &LayerShape, row_tiles: usize) -> SignLayout {
    SignLayout {
        d_in: shape.d_in,
        paths: shape.paths,
        segments: shape.segments.clone(),
        row_tiles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_gives_the_fused_layers() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/configs/llama-1.1b.json");
        let found = of_config(&config, &Options::default()).unwrap();
        let shape = |d_in, segments: &[usize]| Demand {
            shape: LayerShape {
                d_in,
                segments: segments.to_vec(),
                paths: 2,
                activations: "int8",
            },
            layers: 22,
        };
        let expected = [
            shape(2048, &[2048, 256, 256]),
            shape(2048, &[2048]),
            shape(2048, &[5632, 5632]),
            shape(5632, &[2048]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn options_reach_the_shapes() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/configs/llama-1.1b.json");
        let options = Options {
            paths: 3,
            activations: Activations::F32,
            ..Options::default()
        };
        let found = of_config(&config, &options).unwrap();
        assert!(
            found
                .iter()
                .all(|d| d.shape.paths == 3 && d.shape.activations == "f32")
        );
    }
}
