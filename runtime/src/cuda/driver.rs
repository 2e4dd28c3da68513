//! The CUDA driver behind functions that return errors and handles that clean up.
//!
//! The library is looked for when it is first asked for, so that a program runs without one. All
//! `unsafe` calls into it are here and in the modules beside this one.

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys;
use rabitc_rbx::SmArch;

use crate::error::Error;

pub use super::memory::DeviceMemory;

/// Turns a driver's answer into an error that says what was tried.
///
/// # Errors
/// Any answer but success.
pub fn check(code: sys::CUresult, what: &str) -> Result<(), Error> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver returns a static string for codes that it knows.
    let known = unsafe { sys::cuGetErrorString(code, &mut text) } == sys::CUresult::CUDA_SUCCESS;
    let reason = match known && !text.is_null() {
        // SAFETY: as above.
        true => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned(),
        false => String::new(),
    };
    Err(Error::Cuda {
        reason: format!("{what}: {reason} ({code:?})"),
    })
}

pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Cuda {
        reason: reason.into(),
    })
}

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Version of the driver's CUDA, major and minor.
    pub version: (u32, u32),
    /// The devices, by number.
    pub devices: Vec<DeviceInfo>,
}

/// One device.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub arch: SmArch,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of L2 cache.
    pub l2: usize,
}

/// Looks for the driver and its devices.
///
/// # Errors
/// No driver, or one that does not start.
pub fn installed() -> Result<Installed, Error> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return fail("there is no driver: libcuda.so.1 is not on the library path");
    }
    let (mut version, mut count) = (0, 0);
    // SAFETY: the library is there; the pointers are to locals.
    unsafe {
        check(sys::cuInit(0), "starting the driver")?;
        check(
            sys::cuDriverGetVersion(&mut version),
            "asking for the driver's version",
        )?;
        check(sys::cuDeviceGetCount(&mut count), "counting devices")?;
    }
    Ok(Installed {
        version: (version as u32 / 1000, version as u32 % 1000 / 10),
        devices: (0..count).map(describe).collect::<Result<_, _>>()?,
    })
}

fn describe(ordinal: c_int) -> Result<DeviceInfo, Error> {
    use sys::CUdevice_attribute_enum as A;
    let (mut device, mut bytes, mut name) = (0, 0, [0u8; 256]);
    // SAFETY: the pointers are to locals of the sizes given.
    unsafe {
        check(sys::cuDeviceGet(&mut device, ordinal), "opening a device")?;
        check(
            sys::cuDeviceGetName(name.as_mut_ptr().cast(), 255, device),
            "reading a device's name",
        )?;
        check(
            sys::cuDeviceTotalMem_v2(&mut bytes, device),
            "reading a device's memory",
        )?;
    }
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: as above.
        let code = unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) };
        check(code, "reading a device's properties").map(|()| value as usize)
    };
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(0);
    Ok(DeviceInfo {
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        arch: SmArch::new(major as u32, minor as u32),
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        memory: bytes,
    })
}

/// A device in use, with a stream of its own. Calls go to the thread's current context, so every
/// public operation begins with [`Device::bind`].
pub struct Device {
    /// Its number.
    pub ordinal: usize,
    /// What it is.
    pub info: DeviceInfo,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: contexts and streams may be used from any thread that binds the context.
unsafe impl Send for Device {}
// SAFETY: the driver's functions lock what they share.
unsafe impl Sync for Device {}

impl Device {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// No driver, or no such device.
    pub fn open(ordinal: usize) -> Result<Arc<Device>, Error> {
        let installed = installed()?;
        let Some(info) = installed.devices.get(ordinal).cloned() else {
            let count = installed.devices.len();
            return fail(format!(
                "there is no device {ordinal}: the machine has {count}"
            ));
        };
        let (mut handle, mut context) = (0, std::ptr::null_mut());
        let mut stream = std::ptr::null_mut();
        // SAFETY: the pointers are to locals; the context is retained once and released on drop.
        unsafe {
            check(
                sys::cuDeviceGet(&mut handle, ordinal as c_int),
                "opening the device",
            )?;
            check(
                sys::cuDevicePrimaryCtxRetain(&mut context, handle),
                "creating a context",
            )?;
            check(sys::cuCtxSetCurrent(context), "using the context")?;
            let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            check(sys::cuStreamCreate(&mut stream, flags), "creating a stream")?;
        }
        Ok(Arc::new(Device {
            ordinal,
            info,
            handle,
            context,
            stream,
        }))
    }

    /// Makes the device current on this thread.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn bind(&self) -> Result<(), Error> {
        // SAFETY: the context lives as long as `self`.
        check(
            unsafe { sys::cuCtxSetCurrent(self.context) },
            "using the device",
        )
    }

    /// The stream that all work of this device goes to, in order. It lives as long as the device.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn free_bytes(&self) -> Result<usize, Error> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals.
        let code = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        check(code, "asking for free memory")?;
        Ok(free)
    }

    /// Copies device memory from `address` on to `to` and waits for it.
    ///
    /// # Errors
    /// An address that the driver does not know, or a kernel before that failed.
    pub fn read_at(&self, address: u64, to: &mut [u8]) -> Result<(), Error> {
        let target = to.as_mut_ptr().cast::<c_void>();
        // SAFETY: the driver checks device addresses; the copy has ended before `to` is used again.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target, address, to.len(), self.stream) };
        check(code, "copying from the device")?;
        self.synchronize()
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    /// A kernel that failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream lives as long as `self`.
        check(
            unsafe { sys::cuStreamSynchronize(self.stream) },
            "waiting for the device",
        )
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained and created in `open`, and used by nothing any more.
        unsafe {
            sys::cuStreamDestroy_v2(self.stream);
            sys::cuDevicePrimaryCtxRelease_v2(self.handle);
        }
    }
}
