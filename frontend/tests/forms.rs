//! A linear layer computes the same from a dense weight, from a trained residual-binary form and
//! from packed signs.

mod common;

use std::path::Path;

use common::{copy, fixture, logits, relative_error};
use rabitc_frontend::{BufferPrecision, Checkpoint};
use rabitc_ir::WeightStore;
use rabitc_ir::ops::residual_sign::derive_signs;
use safetensors::tensor::{Dtype, TensorView};

const PATHS: usize = 2;
const IDS: [i32; 5] = [3, 17, 250, 4, 99];

/// A layer's weight with scales for two paths.
struct Layer {
    name: String,
    shape: [usize; 2],
    weight: Vec<f32>,
    g: Vec<f32>,
    h: Vec<f32>,
}

impl Layer {
    fn read(store: &Checkpoint, name: &str) -> Layer {
        let w = store.load(&format!("{name}.weight")).unwrap();
        let shape = [w.shape[0], w.shape[1]];
        let scale = |n: usize, size: f32| {
            let value =
                move |i: usize| size * 0.4f32.powi((i / n) as i32) * (1.0 + (i % 5) as f32 / 10.0);
            (0..PATHS * n).map(value).collect()
        };
        Layer {
            name: name.to_string(),
            shape,
            weight: w.floats().to_vec(),
            g: scale(shape[0], 0.13),
            h: scale(shape[1], 0.11),
        }
    }

    fn signs(&self) -> Vec<u8> {
        let [d_out, d_in] = self.shape;
        derive_signs(&self.weight, &self.g, &self.h, [PATHS, d_out, d_in])
    }

    /// The dense weight that the paths add up to.
    fn dense(&self) -> Vec<f32> {
        let ([d_out, d_in], signs) = (self.shape, self.signs());
        let stride = d_in.div_ceil(8);
        let path = |o: usize, i: usize, p: usize| {
            let bit = signs[(p * d_out + o) * stride + i / 8] >> (i % 8) & 1;
            let sign = if bit == 1 { 1.0 } else { -1.0 };
            sign * self.g[p * d_out + o] * self.h[p * d_in + i]
        };
        let element = |at: usize| (0..PATHS).map(|p| path(at / d_in, at % d_in, p)).sum();
        (0..d_out * d_in).map(element).collect()
    }
}

enum Form {
    Dense,
    Trained,
    Packed,
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes the fixture with the linear layers of its blocks in `form`.
fn write(family: &str, folder: &Path, form: &Form) {
    let store = Checkpoint::open(fixture(family)).unwrap();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for tensor in store.names() {
        let base = tensor
            .strip_suffix(".weight")
            .filter(|n| n.contains("_proj"));
        let Some(base) = base else {
            let info = store.info(tensor).unwrap();
            tensors.push((
                tensor.into(),
                info.dtype,
                info.shape,
                store.bytes(tensor).unwrap().to_vec(),
            ));
            continue;
        };
        let layer = Layer::read(&store, base);
        let [d_out, d_in] = layer.shape;
        let mut put = |suffix: &str, dtype, shape: &[usize], data: Vec<u8>| {
            tensors.push((
                format!("{}{suffix}", layer.name),
                dtype,
                shape.to_vec(),
                data,
            ));
        };
        match form {
            Form::Dense => put(".weight", Dtype::F32, &[d_out, d_in], le(&layer.dense())),
            Form::Trained => put(".weight", Dtype::F32, &[d_out, d_in], le(&layer.weight)),
            Form::Packed => {
                let shape = [PATHS, d_out, d_in.div_ceil(8)];
                put(".rb_bits", Dtype::U8, &shape, layer.signs());
            }
        }
        if !matches!(form, Form::Dense) {
            put(".rb_g", Dtype::F32, &[PATHS, d_out], le(&layer.g));
            put(".rb_h", Dtype::F32, &[PATHS, d_in], le(&layer.h));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

#[test]
fn trained_and_packed_layers_compute_what_their_paths_add_up_to() {
    // qwen2 has widths that are no multiple of 32, and biases.
    for family in ["llama2", "qwen2", "gemma3"] {
        let run = |form: Form| {
            let dir = copy(family);
            write(family, dir.path(), &form);
            logits(dir.path(), &IDS, BufferPrecision::Checkpoint)
        };
        let (dense, trained, packed) = (run(Form::Dense), run(Form::Trained), run(Form::Packed));
        assert_eq!(trained, packed, "{family}");
        let error = relative_error(&packed, &dense);
        assert!(error < 1e-4, "{family}: {error:e}");
    }
}
