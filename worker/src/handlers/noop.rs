//! `noop`: does nothing. The output is null.

use futures::future::{BoxFuture, ready};

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output};

pub(super) struct Noop;

impl Handler for Noop {
    fn call(&self, _ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        Box::pin(ready(Ok(Output::null())))
    }
}
