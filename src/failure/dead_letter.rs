//! stub
pub struct DeadLetter;
