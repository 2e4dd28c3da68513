//! Dense products by cuBLASLt, which is looked for at run time.
//!
//! cuBLASLt counts columns first, so it is given the transposed product: cᵀ = op(b)ᵀ op(a)ᵀ, whose
//! factors lie in memory as ours do.

use std::ffi::c_void;
use std::mem::size_of;
use std::path::Path;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use libloading::Library;
use rabitc_codegen::cuda::nvrtc;
use rabitc_codegen::train::{Gemm, Plan, View};
use rabitc_ir::DType;
use rabitc_runtime::cuda::driver::{Device, DeviceMemory};

use crate::engine::EngineError;

/// Bytes that the library may use beside the matrices.
pub const WORKSPACE: usize = 32 << 20;

const LIBRARY: &str = "libcublasLt.so.13";
/// Where it is below the places that NVRTC is looked for in.
const FOLDERS: [&str; 4] = ["", "lib64", "lib", "nvidia/cu13/lib"];
const REMEDY: &str = "libcublasLt.so.13 must be on the library path, or in a CUDA toolkit 13 that \
                      CUDA_HOME names";

/// The library, opened on a device.
pub struct Blas {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    workspace: DeviceMemory,
    // What the handle's functions are in, if it is not on the library path.
    _library: Option<Library>,
}

// SAFETY: handles may be used from any thread that binds the context, one at a time.
unsafe impl Send for Blas {}

/// Loads the library from where a toolkit has it, if it is not on the library path: it is found by
/// its name from then on.
fn preload() -> Option<Library> {
    // SAFETY: NVIDIA's libraries run no code on loading that could harm.
    let open = |file: &Path| unsafe { Library::new(file) }.ok();
    if let Some(library) = open(Path::new(LIBRARY)) {
        return Some(library);
    }
    let folders = nvrtc::places().into_iter();
    let files = folders.flat_map(|place| FOLDERS.map(|folder| place.join(folder).join(LIBRARY)));
    files
        .filter(|file| file.exists())
        .find_map(|file| open(&file))
}

/// Whether the library of dense products, which training on GPUs needs, can be found.
///
/// # Errors
/// It cannot; the message says where it is looked for.
pub fn cublaslt() -> Result<(), EngineError> {
    find().map(drop)
}

/// Makes the library be found by its name, for as long as the value lives.
fn find() -> Result<Option<Library>, EngineError> {
    let library = preload();
    // SAFETY: only looks for the library.
    match unsafe { sys::is_culib_present() } {
        true => Ok(library),
        false => Err(EngineError::new(format!("there is no cuBLASLt: {REMEDY}"))),
    }
}

fn failed(what: &str, e: impl std::fmt::Debug) -> EngineError {
    EngineError::new(format!("cuBLASLt: {what}: {e:?}"))
}

impl Blas {
    /// Finds the library.
    ///
    /// # Errors
    /// It is not there, or does not start.
    pub fn open(device: &Arc<Device>) -> Result<Blas, EngineError> {
        let library = find()?;
        let workspace = DeviceMemory::zeroed(device, WORKSPACE, "the workspace of products");
        let workspace = workspace.map_err(|e| EngineError::new(e.to_string()))?;
        let handle = result::create_handle().map_err(|e| failed("starting", e))?;
        Ok(Blas {
            device: Arc::clone(device),
            handle,
            workspace,
            _library: library,
        })
    }

    /// Chooses how a product is computed.
    ///
    /// # Errors
    /// A product that the library has no kernel for; the message names the node.
    pub fn prepare(&self, plan: &Plan, gemm: &Gemm) -> Result<Product, EngineError> {
        let fail = |e: result::CublasError| {
            let (m, n, k) = (gemm.m, gemm.n, gemm.k);
            failed(&format!("%{} ({m} × {n} × {k})", gemm.node), e)
        };
        let describe = || -> Result<Product, result::CublasError> {
            let left = Matrix::new(plan, gemm.b)?;
            let right = Matrix::new(plan, gemm.a)?;
            let out = Matrix::new(plan, gemm.c)?;
            let what = Descriptor::new(gemm.transpose_b, gemm.transpose_a)?;
            let preference = Preference::new(plan, gemm)?;
            // SAFETY: all descriptors are alive.
            let found = unsafe {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    what.0,
                    left.0,
                    right.0,
                    out.0,
                    out.0,
                    preference.0,
                )
            }?;
            Ok(Product {
                what,
                left,
                right,
                out,
                algorithm: found.algo,
                beta: if gemm.accumulate { 1.0 } else { 0.0 },
            })
        };
        describe().map_err(fail)
    }

    /// Puts a product on the device's stream.
    ///
    /// # Errors
    /// What the library refuses.
    ///
    /// # Safety
    /// The addresses are those of the first elements of the views that the product was prepared
    /// for, in memory that outlives the work on the stream.
    pub unsafe fn run(&self, product: &Product, a: u64, b: u64, c: u64) -> Result<(), EngineError> {
        let alpha = 1.0f32;
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the descriptors are alive, alpha and beta are f32 as the descriptor says, and
        // the matrices are the caller's.
        let done = unsafe {
            result::matmul(
                self.handle,
                product.what.0,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&product.beta).cast(),
                pointer(b),
                product.left.0,
                pointer(a),
                product.right.0,
                pointer(c),
                product.out.0,
                pointer(c),
                product.out.0,
                &product.algorithm,
                pointer(self.workspace.at(0)),
                WORKSPACE,
                self.device.stream().cast(),
            )
        };
        done.map_err(|e| failed("multiplying", e))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: created in `open`; the engine waits for its work before it is dropped.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A product, ready to run.
pub struct Product {
    what: Descriptor,
    left: Matrix,
    right: Matrix,
    out: Matrix,
    algorithm: sys::cublasLtMatmulAlgo_t,
    beta: f32,
}

// SAFETY: descriptors are plain memory of the library, used by one thread at a time.
unsafe impl Send for Product {}

/// How a matrix lies, transposed: its columns are our rows.
struct Matrix(sys::cublasLtMatrixLayout_t);

impl Matrix {
    fn new(plan: &Plan, view: View) -> Result<Matrix, result::CublasError> {
        let dtype = match plan.values[view.value].dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let (rows, columns) = (view.columns as u64, view.rows as u64);
        result::create_matrix_layout(dtype, rows, columns, view.stride as i64).map(Matrix)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // SAFETY: created in `new`.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What is computed: with f32 sums.
struct Descriptor(sys::cublasLtMatmulDesc_t);

impl Descriptor {
    fn new(transpose_left: bool, transpose_right: bool) -> Result<Descriptor, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as A;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?;
        let desc = Descriptor(desc);
        let sides = [
            (A::CUBLASLT_MATMUL_DESC_TRANSA, transpose_left),
            (A::CUBLASLT_MATMUL_DESC_TRANSB, transpose_right),
        ];
        for (side, transposed) in sides {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let op = i32::from(transposed);
            // SAFETY: the attribute is a 32-bit integer.
            unsafe {
                let value = std::ptr::from_ref(&op).cast();
                result::set_matmul_desc_attribute(desc.0, side, value, size_of::<i32>())?;
            }
        }
        Ok(desc)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new`.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What the choice of a kernel is bound by.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(plan: &Plan, gemm: &Gemm) -> Result<Preference, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let preference = Preference(result::create_matmul_pref()?);
        let set = |which, value: *const c_void, bytes| {
            // SAFETY: each attribute below is given with its own type.
            unsafe { result::set_matmul_pref_attribute(preference.0, which, value, bytes) }
        };
        let workspace = WORKSPACE;
        set(
            A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            std::ptr::from_ref(&workspace).cast(),
            size_of::<usize>(),
        )?;
        let alignments = [
            (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, gemm.b),
            (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, gemm.a),
            (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, gemm.c),
            (A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, gemm.c),
        ];
        for (which, view) in alignments {
            let bytes = view.offset * plan.values[view.value].dtype.bits() / 8;
            // Values themselves lie at multiples of 256 bytes.
            let alignment = 1u32 << bytes.trailing_zeros().min(8);
            set(
                which,
                std::ptr::from_ref(&alignment).cast(),
                size_of::<u32>(),
            )?;
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created in `new`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
