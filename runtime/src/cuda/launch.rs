//! Kernels, loaded, and launches with every pointer resolved.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys;
use rabitc_rbx::gpu::{Blocks, GpuKernel};

use super::driver::{Device, check};
use crate::error::Error;

/// One kernel on a device.
pub struct Kernel {
    device: Arc<Device>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    threads: u32,
    cluster: u32,
    shared: u32,
    overlaps: bool,
}

// SAFETY: modules and functions may be used from any thread that binds the context.
unsafe impl Send for Kernel {}
// SAFETY: launching does not change a kernel.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Loads a cubin, or PTX that ends in a NUL byte.
    ///
    /// # Errors
    /// An image that the driver refuses, or that has no function of the kernel's name.
    pub fn load(device: &Arc<Device>, kernel: &GpuKernel, image: &[u8]) -> Result<Kernel, Error> {
        let what = |what: &str| format!("{what} kernel {}", kernel.name);
        let name = CString::new(kernel.name.as_str());
        let name = name.map_err(|e| Error::Cuda {
            reason: e.to_string(),
        })?;
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the image was checked against its hash and is an ELF file or text with an end;
        // the pointers are to locals.
        unsafe {
            check(
                sys::cuModuleLoadData(&mut module, image.as_ptr().cast()),
                &what("loading"),
            )?;
            check(
                sys::cuModuleGetFunction(&mut function, module, name.as_ptr()),
                &what("finding"),
            )?;
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            if kernel.shared > 0 {
                let code = sys::cuFuncSetAttribute(function, attribute, kernel.shared as i32);
                check(code, &what("setting the shared memory of"))?;
            }
        }
        Ok(Kernel {
            device: Arc::clone(device),
            module,
            function,
            threads: kernel.threads,
            cluster: kernel.cluster,
            shared: kernel.shared,
            overlaps: kernel.overlaps,
        })
    }

    /// Has a multiprocessor that runs the kernel give all of its first-level memory to shared memory,
    /// not only what blocks of this kernel use. Otherwise blocks of the next one cannot join them
    /// there before they have ended: the division changes only while nothing runs.
    ///
    /// # Errors
    /// A driver that refuses.
    pub fn prefer_shared_memory(&self) -> Result<(), Error> {
        let attribute =
            sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        let percent = sys::CUshared_carveout_enum::CU_SHAREDMEM_CARVEOUT_MAX_SHARED as i32;
        // SAFETY: the function belongs to a module that is loaded.
        let code = unsafe { sys::cuFuncSetAttribute(self.function, attribute, percent) };
        check(code, "dividing the memory of multiprocessors")
    }

    /// Launches `grid` blocks on the device's stream; none if a dimension is 0.
    ///
    /// # Errors
    /// More pointers than a kernel may have, or a launch that the driver refuses.
    ///
    /// # Safety
    /// There is a pointer for every parameter, in order, and each points into device memory that
    /// is as large as the kernel expects and outlives the work on the stream.
    pub unsafe fn launch(&self, grid: [u32; 3], pointers: &[u64]) -> Result<(), Error> {
        if grid.contains(&0) {
            return Ok(());
        }
        if pointers.len() > MOST_PARAMS {
            let found = pointers.len();
            let reason = format!("a kernel has {found} parameters, at most {MOST_PARAMS} may be");
            return Err(Error::Cuda { reason });
        }
        let mut params: [*mut c_void; MOST_PARAMS] = [std::ptr::null_mut(); MOST_PARAMS];
        for (param, pointer) in params.iter_mut().zip(pointers) {
            *param = std::ptr::from_ref(pointer).cast_mut().cast();
        }
        let (mut attributes, count) = self.attributes();
        let config = sys::CUlaunchConfig_st {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: self.device.stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        // SAFETY: the caller's.
        let code = unsafe {
            sys::cuLaunchKernelEx(
                &config,
                self.function,
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check(code, "launching a kernel")
    }

    /// The attributes of a launch, and how many of them hold.
    fn attributes(&self) -> ([sys::CUlaunchAttribute; 2], usize) {
        let mut attributes = [attribute(), attribute()];
        let mut count = 0;
        if self.overlaps {
            attributes[count].id =
                sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count]
                .value
                .programmaticStreamSerializationAllowed = 1;
            count += 1;
        }
        if self.cluster > 1 {
            attributes[count].id =
                sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[count].value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                x: self.cluster,
                y: 1,
                z: 1,
            };
            count += 1;
        }
        (attributes, count)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`, and no launch is left: models outlive their sessions.
        unsafe {
            let _ = self.device.bind();
            sys::cuModuleUnload(self.module);
        }
    }
}

/// Parameters that a kernel has at most.
pub const MOST_PARAMS: usize = 64;

fn attribute() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_IGNORE,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue_union { pad: [0; 64] },
    }
}

/// A launch whose pointers are known.
pub(crate) struct ReadyLaunch {
    /// Index of the kernel.
    pub kernel: usize,
    /// Blocks.
    pub grid: [Blocks; 3],
    /// Addresses.
    pub pointers: Vec<u64>,
}

impl ReadyLaunch {
    /// Launches for `tokens` tokens and `rows` rows.
    pub fn run(&self, kernels: &[Kernel], tokens: usize, rows: usize) -> Result<(), Error> {
        let grid = self.grid.map(|blocks| blocks.count(tokens, rows));
        // SAFETY: the reader checked the pointers' number against the kernel table, and every one
        // points into memory that outlives the work on this stream: sessions wait for it before
        // they free anything.
        unsafe { kernels[self.kernel].launch(grid, &self.pointers) }
    }
}
