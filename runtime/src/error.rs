//! What can go wrong at run time, in words for the person at the terminal.

/// Any failure of the runtime. The message names what was being done, to what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A thread count of zero, or one no machine has.
    #[error("{threads} threads asked for; it must be 1 to {max}")]
    ThreadCount {
        /// The count asked for.
        threads: usize,
        /// The largest count accepted.
        max: usize,
    },
    /// The system refused to start a thread.
    #[error("cannot start thread {index} of {threads}: {source}")]
    SpawnThread {
        /// Which worker it would have been.
        index: usize,
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The function given to the pool panicked on one of the workers.
    #[error("worker {worker} panicked: {message}")]
    WorkerPanicked {
        /// The worker's index; 0 is the thread that called `run`.
        worker: usize,
        /// The panic message.
        message: String,
    },
    /// Some workers waited at the barrier more often than others.
    #[error("a worker returned while another still waited for it at the barrier")]
    BarrierMismatch,
    /// `run` was called by a thread that was itself executing a pool's function.
    #[error("a thread pool was run from inside a worker of a pool")]
    NestedRun,
    /// The system has no memory of this size left, or the process may not have it.
    #[error("cannot map {bytes} bytes for {what}: {source}")]
    Map {
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A size computed from the model's description exceeds the address space.
    #[error("the size of {what} does not fit this machine's address space")]
    SizeOverflow {
        /// What was being sized.
        what: &'static str,
    },
    /// Memory from the allocator ran out.
    #[error("cannot allocate room for {elements} elements of {what}")]
    Allocate {
        /// What the memory was for.
        what: &'static str,
        /// How many elements were asked for.
        elements: usize,
    },
    /// A cache shape that no model can have.
    #[error("key-value cache: {reason}")]
    CacheShape {
        /// What is wrong with it.
        reason: String,
    },
    /// Native code that cannot be loaded, or an entry point that does not lie in it.
    #[error("native code: {reason}")]
    NativeCode {
        /// What is wrong with it.
        reason: String,
    },
    /// A sampling parameter outside its range.
    #[error("sampling parameter {parameter} is {value}; it must be {expected}")]
    SamplingParameter {
        /// The parameter's name.
        parameter: &'static str,
        /// The value given.
        value: f32,
        /// The accepted range, in words.
        expected: &'static str,
    },
    /// Logits from which no token can be drawn.
    #[error("cannot sample: {reason}")]
    Logits {
        /// What is wrong with them.
        reason: String,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// `tokenizer.json` cannot be read, or text cannot be encoded or decoded with it.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// `tokenizer_config.json` cannot be understood.
    #[error("tokenizer_config.json: {reason}")]
    TokenizerConfig {
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template is absent, malformed, or refused the conversation.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// What is wrong.
        reason: String,
    },
    /// The artifact cannot be read.
    #[error(transparent)]
    Artifact(#[from] rabitc_rbx::Error),
    /// The artifact has no code for this machine.
    #[error(
        "the artifact has code for {offered}, this machine is {machine}: {}",
        match gpus {
            true => "give --device cuda, or compile it with --target cpu:native on this machine",
            false => "compile it with --target cpu:native on this machine",
        }
    )]
    NoCode {
        /// The levels the artifact has code for.
        offered: String,
        /// This machine's level.
        machine: &'static str,
        /// Whether there is code for GPUs.
        gpus: bool,
    },
    /// A CUDA driver, device or kernel that cannot be used.
    #[error("CUDA: {reason}")]
    Cuda {
        /// What was tried and what the driver said.
        reason: String,
    },
    /// The artifact has no code for the GPU.
    #[error(
        "the artifact has {offered} for GPUs, device {device} is {card}: compile it with \
         --target cuda:{card}"
    )]
    NoGpuCode {
        /// The architectures that it has code for.
        offered: String,
        /// The device's number.
        device: usize,
        /// The device's architecture.
        card: String,
    },
    /// A model or session that does not fit into device memory.
    #[error("{what} needs {needed} bytes of device memory, device {device} has {free} free")]
    DeviceMemory {
        /// What was to be put there.
        what: &'static str,
        /// Bytes asked for.
        needed: usize,
        /// Bytes that are free.
        free: usize,
        /// The device's number.
        device: usize,
    },
    /// The artifact's plan cannot be carried out.
    #[error("the artifact's plan {reason}")]
    Plan {
        /// What is wrong with it.
        reason: String,
    },
    /// A context that the model does not have.
    #[error("a context of {context} positions; the model has 1 to {limit}")]
    Context {
        /// Positions asked for.
        context: usize,
        /// Positions the model was made for.
        limit: usize,
    },
    /// More tokens than the context has room for.
    #[error(
        "the context is full: {position} positions are taken, {tokens} more do not fit into \
         {context}"
    )]
    ContextFull {
        /// Positions taken.
        position: usize,
        /// Tokens that were to be read.
        tokens: usize,
        /// Room.
        context: usize,
    },
    /// A step that cannot be run as asked.
    #[error("cannot run this step: {reason}")]
    Step {
        /// Why not.
        reason: String,
    },
}
