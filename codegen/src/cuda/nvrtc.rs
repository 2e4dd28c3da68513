//! A binding to NVRTC, which is looked for when it is needed.
//!
//! The first of these that exists is used: the folder in `RABITC_NVRTC`, `target/nvrtc` where
//! `scripts/setup-nvrtc` puts it, a CUDA toolkit in `CUDA_HOME`, `CUDA_PATH` or `/usr/local/cuda`,
//! and the system's library path. Folders may hold the libraries themselves or have them under
//! `lib`, `lib64` or, like the wheel, `nvidia/cu13/lib`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;
use libloading::os::unix;

use crate::CodegenError;

const NAMES: [&str; 1] = ["libnvrtc.so.13"];
const BUILTINS: &str = "libnvrtc-builtins.so";
const FOLDERS: [&str; 5] = [
    "",
    "lib",
    "lib64",
    "nvidia/cu13/lib",
    "nvidia/cuda_nvrtc/lib",
];
const REMEDY: &str = "run scripts/setup-nvrtc, or set RABITC_NVRTC to a folder that holds \
                      libnvrtc.so.13 and its builtins";

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int) -> *const c_char;

/// NVRTC, loaded.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    cubin: (Size, Get),
    ptx: (Size, Get),
    log: (Size, Get),
    destroy: Destroy,
    error_text: ErrorText,
    version: (u32, u32),
    path: PathBuf,
    // The functions above point into these.
    _libraries: Vec<Library>,
}

/// What NVRTC made of a text.
pub struct Output {
    /// Machine code; empty where only PTX was asked for.
    pub cubin: Vec<u8>,
    /// PTX text.
    pub ptx: String,
    /// What the compiler said.
    pub log: String,
}

impl Nvrtc {
    /// Finds and loads NVRTC.
    ///
    /// # Errors
    /// None of the places has it, or the library is not NVRTC; the message names the remedy.
    pub fn load() -> Result<Nvrtc, CodegenError> {
        let mut tried = Vec::new();
        for place in places() {
            for folder in FOLDERS {
                let folder = place.join(folder);
                if let Some(library) = NAMES.iter().map(|n| folder.join(n)).find(|p| p.exists()) {
                    return open(&folder, &library);
                }
            }
            tried.push(place.display().to_string());
        }
        for name in NAMES {
            if let Ok(nvrtc) = open(Path::new(""), Path::new(name)) {
                return Ok(nvrtc);
            }
        }
        tried.push("the system's library path".into());
        Err(CodegenError::Nvrtc {
            reason: format!("is not in {}: {REMEDY}", tried.join(", ")),
        })
    }

    /// Its version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The library's file, or its name where the system found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles a text.
    ///
    /// # Errors
    /// Options with NUL bytes, or a text that does not compile: the compiler's log.
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        options: &[String],
    ) -> Result<Output, CodegenError> {
        let fail = |reason: String| CodegenError::Cuda {
            kernel: name.to_string(),
            reason,
        };
        let c_text = |s: &str| CString::new(s).map_err(|e| fail(e.to_string()));
        let (source, file) = (c_text(text)?, c_text(&format!("{name}.cu"))?);
        let options = options
            .iter()
            .map(|o| c_text(o))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the strings outlive the calls, there are no headers, and `program` is destroyed
        // exactly once, below.
        unsafe {
            let none = std::ptr::null();
            let code = (self.create)(&mut program, source.as_ptr(), file.as_ptr(), 0, none, none);
            if code != 0 {
                return Err(fail(self.describe(code)));
            }
            let code = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
            let log = text_of(&self.get(program, self.log));
            let output = (code == 0).then(|| Output {
                cubin: self.get(program, self.cubin),
                ptx: text_of(&self.get(program, self.ptx)),
                log: log.clone(),
            });
            (self.destroy)(&mut program);
            output.ok_or_else(|| fail(format!("{}\n{log}", self.describe(code))))
        }
    }

    fn describe(&self, code: c_int) -> String {
        // SAFETY: NVRTC returns a static string for every code.
        let text = unsafe { CStr::from_ptr((self.error_text)(code)) };
        text.to_string_lossy().into_owned()
    }

    /// # Safety
    /// `program` is a live program.
    unsafe fn get(&self, program: Program, (size, get): (Size, Get)) -> Vec<u8> {
        let mut bytes = 0;
        // SAFETY: the caller's; the buffer has the size that NVRTC names.
        unsafe {
            if size(program, &mut bytes) != 0 || bytes == 0 {
                return Vec::new();
            }
            let mut buffer = vec![0u8; bytes];
            if get(program, buffer.as_mut_ptr().cast()) != 0 {
                return Vec::new();
            }
            buffer
        }
    }
}

/// The text before the first NUL byte.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Folders to look in, in order.
pub fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("RABITC_NVRTC")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    places.push("target/nvrtc".into());
    // The folder of the project's own build, wherever tests and tools are started.
    if let Ok(program) = std::env::current_exe() {
        places.extend(
            program
                .ancestors()
                .filter(|a| a.ends_with("target"))
                .map(|a| a.join("nvrtc")),
        );
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os);
    places.extend(homes.map(PathBuf::from));
    places.push("/usr/local/cuda".into());
    places
}

fn open(folder: &Path, file: &Path) -> Result<Nvrtc, CodegenError> {
    let fail = |reason: String| CodegenError::Nvrtc {
        reason: format!("in {} cannot be used: {reason}", file.display()),
    };
    let mut libraries = Vec::new();
    // NVRTC opens its builtins by name when it compiles, so they must be there by then.
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in files.filter(|e| e.file_name().to_string_lossy().starts_with(BUILTINS)) {
        libraries.push(load(&entry.path()).map_err(&fail)?);
    }
    let library = load(file).map_err(&fail)?;
    // SAFETY: the types are those of nvrtc.h, which have not changed since CUDA 11.1.
    let nvrtc = unsafe {
        let mut nvrtc = Nvrtc {
            create: symbol(&library, "nvrtcCreateProgram").map_err(&fail)?,
            compile: symbol(&library, "nvrtcCompileProgram").map_err(&fail)?,
            cubin: pair(&library, "nvrtcGetCUBINSize", "nvrtcGetCUBIN").map_err(&fail)?,
            ptx: pair(&library, "nvrtcGetPTXSize", "nvrtcGetPTX").map_err(&fail)?,
            log: pair(&library, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").map_err(&fail)?,
            destroy: symbol(&library, "nvrtcDestroyProgram").map_err(&fail)?,
            error_text: symbol(&library, "nvrtcGetErrorString").map_err(&fail)?,
            version: (0, 0),
            path: file.to_path_buf(),
            _libraries: Vec::new(),
        };
        let version: Version = symbol(&library, "nvrtcVersion").map_err(&fail)?;
        let (mut major, mut minor) = (0, 0);
        version(&mut major, &mut minor);
        nvrtc.version = (major as u32, minor as u32);
        nvrtc
    };
    libraries.push(library);
    Ok(Nvrtc {
        _libraries: libraries,
        ..nvrtc
    })
}

fn load(file: &Path) -> Result<Library, String> {
    // SAFETY: NVIDIA's libraries run no code on loading that could harm; global, so that NVRTC
    // finds its builtins.
    let library = unsafe { unix::Library::open(Some(file), unix::RTLD_NOW | unix::RTLD_GLOBAL) };
    library.map(Library::from).map_err(|e| e.to_string())
}

/// # Safety
/// `T` is the type of the function of that name.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|s| *s).map_err(|e| e.to_string())
}

/// # Safety
/// The functions of these names have the types `Size` and `Get`.
unsafe fn pair(library: &Library, size: &str, get: &str) -> Result<(Size, Get), String> {
    // SAFETY: the caller's.
    unsafe { Ok((symbol(library, size)?, symbol(library, get)?)) }
}
