//! The exact text form of a graph: [`print`] and [`parse`] are each other's inverse.
//!
//! ```text
//! graph "tiny" {
//!   %ids = input {name="ids", ty=i32[T]} : i32[T]
//!   %w = weight {name="embed", ty=bf16[8,4]} : bf16[8,4]
//!   %x = embed(%w, %ids) {scale=1.0} : f32[T,4]
//!   output "x" %x
//! }
//! ```
//!
//! Line breaks count as spaces, except that `#` starts a comment and a string ends on its line.
//! Names are made of letters, digits, `_`, `.`, `-`, `+` and `/`.

mod lexer;
mod parser;
mod printer;

pub(crate) use lexer::is_name;
pub use parser::{ParseError, parse};
pub use printer::print;
