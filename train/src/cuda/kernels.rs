//! Kernels, compiled when they are first needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rabitc_codegen::CodegenError;
use rabitc_codegen::cuda::{Compiled, Compiler, Source};
use rabitc_rbx::gpu::{GpuKernel, Resources};
use rabitc_runtime::cuda::driver::Device;
use rabitc_runtime::cuda::launch::Kernel;

use crate::engine::EngineError;

/// The kernels of an engine, by name.
pub struct Kernels {
    device: Arc<Device>,
    compiler: Compiler,
    loaded: HashMap<String, Arc<Kernel>>,
}

impl Kernels {
    /// No kernels yet.
    ///
    /// # Errors
    /// NVRTC cannot be found.
    pub fn new(device: &Arc<Device>) -> Result<Kernels, EngineError> {
        let compiler = Compiler::new().map_err(|e| EngineError::new(e.to_string()))?;
        Ok(Kernels {
            device: Arc::clone(device),
            compiler,
            loaded: HashMap::new(),
        })
    }

    /// Compiles and loads what is not there yet, on all processors.
    ///
    /// # Errors
    /// A kernel that does not compile or load: a defect of this program.
    pub fn prepare<'a>(
        &mut self,
        sources: impl Iterator<Item = &'a Source>,
    ) -> Result<(), EngineError> {
        let mut missing: Vec<&Source> = Vec::new();
        let mut names = std::collections::HashSet::new();
        for source in sources {
            if !self.loaded.contains_key(&source.name) && names.insert(&source.name) {
                missing.push(source);
            }
        }
        for (source, compiled) in missing.iter().zip(self.compile(&missing)) {
            let compiled = compiled.map_err(|e| EngineError::new(e.to_string()))?;
            let kernel = load(&self.device, source, &compiled)?;
            self.loaded.insert(source.name.clone(), Arc::new(kernel));
        }
        Ok(())
    }

    fn compile(&self, sources: &[&Source]) -> Vec<Result<Compiled, CodegenError>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (next, arch) = (AtomicUsize::new(0), self.device.info.arch);
        let mut all: Vec<(usize, Result<Compiled, CodegenError>)> = std::thread::scope(|scope| {
            let work = || {
                let mut done = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(source) = sources.get(i) else {
                        return done;
                    };
                    done.push((i, self.compiler.compile(source, arch)));
                }
            };
            let workers: Vec<_> = (0..threads.min(sources.len()))
                .map(|_| scope.spawn(work))
                .collect();
            let results = workers.into_iter().filter_map(|w| w.join().ok());
            results.flatten().collect()
        });
        all.sort_by_key(|(i, _)| *i);
        all.into_iter().map(|(_, compiled)| compiled).collect()
    }

    /// The kernel of a source that was prepared.
    ///
    /// # Errors
    /// It was not.
    pub fn get(&self, name: &str) -> Result<Arc<Kernel>, EngineError> {
        let missing = || EngineError::new(format!("kernel {name} was not prepared"));
        self.loaded.get(name).cloned().ok_or_else(missing)
    }
}

fn load(device: &Arc<Device>, source: &Source, compiled: &Compiled) -> Result<Kernel, EngineError> {
    let kernel = GpuKernel {
        name: source.name.clone(),
        params: source.params.clone(),
        threads: source.threads,
        cluster: source.cluster,
        shared: source.shared,
        overlaps: source.overlaps,
        cubin: (0, compiled.cubin.len()),
        ptx: (0, 0),
        resources: Resources::default(),
        chosen_by: None,
    };
    let loaded = Kernel::load(device, &kernel, &compiled.cubin);
    loaded.map_err(|e| EngineError::new(e.to_string()))
}
