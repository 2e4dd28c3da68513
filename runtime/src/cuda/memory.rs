//! Memory of a device.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{Device, check, fail};
use crate::error::Error;

/// Zeroed device memory.
pub struct DeviceMemory {
    device: Arc<Device>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// `bytes` bytes for `what`, at least one.
    ///
    /// # Errors
    /// Less memory than that is free.
    pub fn zeroed(
        device: &Arc<Device>,
        bytes: usize,
        what: &'static str,
    ) -> Result<DeviceMemory, Error> {
        let bytes = bytes.max(1);
        let free = device.free_bytes()?;
        let needed = bytes;
        let ordinal = device.ordinal;
        let refused = Error::DeviceMemory {
            what,
            needed,
            free,
            device: ordinal,
        };
        if bytes > free {
            return Err(refused);
        }
        let mut address = 0;
        // SAFETY: the pointer is to a local.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        if code != sys::CUresult::CUDA_SUCCESS {
            return Err(refused);
        }
        let memory = DeviceMemory {
            device: Arc::clone(device),
            address,
            bytes,
        };
        memory.clear(0, bytes)?;
        Ok(memory)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of byte `offset`.
    pub fn at(&self, offset: usize) -> u64 {
        self.address + offset as u64
    }

    /// Sets `bytes` bytes from byte `offset` on to zero, in stream order.
    ///
    /// # Errors
    /// A range outside the memory, or a device that was lost.
    pub fn clear(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        self.check_range(offset, bytes)?;
        // SAFETY: the range exists.
        let code = unsafe { sys::cuMemsetD8Async(self.at(offset), 0, bytes, self.device.stream()) };
        check(code, "clearing device memory")
    }

    /// Copies `from` to byte `offset` on, in stream order.
    ///
    /// # Errors
    /// A range outside the memory, or a device that was lost.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        self.check_range(offset, from.len())?;
        let (source, stream) = (from.as_ptr().cast::<c_void>(), self.device.stream());
        // SAFETY: both ranges exist. The source is pageable: the driver has read it when the call
        // returns.
        let code =
            unsafe { sys::cuMemcpyHtoDAsync_v2(self.at(offset), source, from.len(), stream) };
        check(code, "copying to the device")
    }

    /// Copies from byte `offset` on to `to` and waits for it.
    ///
    /// # Errors
    /// A range outside the memory, or a kernel before that failed.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        self.check_range(offset, to.len())?;
        let (target, stream) = (to.as_mut_ptr().cast::<c_void>(), self.device.stream());
        // SAFETY: both ranges exist, and the copy has ended before `to` is used again.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target, self.at(offset), to.len(), stream) };
        check(code, "copying from the device")?;
        self.device.synchronize()
    }

    fn check_range(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => fail(format!(
                "{bytes} bytes at {offset} are outside a buffer of {}",
                self.bytes
            )),
        }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // A device that was lost has lost its memory too.
        let _ = self.device.bind();
        // SAFETY: allocated in `zeroed`. Freeing waits for kernels that use it.
        unsafe { sys::cuMemFree_v2(self.address) };
    }
}
