//! Tests of the passes over whole small models.

mod fitted;
mod gradients;
mod list;
mod materialize;
mod model;
mod pipeline;
