//! stub
#![allow(missing_docs)]
pub mod bus;
pub mod codec;
pub mod config;
pub mod connector;
pub mod failure;
pub mod operator;
pub mod sql;
pub mod topology;
