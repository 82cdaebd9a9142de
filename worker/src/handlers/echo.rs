//! `echo`: the output is the payload, byte for byte.

use futures::future::{BoxFuture, ready};

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output};

pub(super) struct Echo;

impl Handler for Echo {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        Box::pin(ready(Ok(Output::json(ctx.payload()))))
    }
}
