//! `rabitc run --chat`: one answer, or a conversation line by line.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result, bail};
use rabitc_runtime::Session;
use rabitc_runtime::chat::{ChatTemplate, Message};
use rabitc_runtime::sampler::Sampler;
use rabitc_runtime::tokenizer::Tokenizer;

use super::generate::{Limits, Timed, generate};
use super::report::{self, Output};
use super::{Runner, check_fits};
use crate::open;

/// Tokens of an answer, unless -n says otherwise.
const ANSWER: usize = 1024;
/// Positions of a conversation, unless --ctx says otherwise.
const CONTEXT: usize = 8192;

/// Chats, once with -p, else until standard input ends.
pub fn run(runner: &Runner<'_>) -> Result<()> {
    let template = open::chat_template(&runner.model)?;
    let tokenizer = open::tokenizer(&runner.model)?;
    // A turn ends with the tokenizer's end token, which base models' configurations do not name.
    let stop: Vec<u32> = tokenizer.eos_id().into_iter().collect();
    let limits = runner.limits(&stop, ANSWER);
    let mut messages = opening(runner.args.system.as_deref());
    if runner.args.prompt.is_some() {
        messages.push(Message::new("user", runner.prompt_text()?));
        let prompt = encode(&template, &tokenizer, &messages)?;
        let output = match runner.args.json {
            true => Output::Silent,
            false => Output::Text,
        };
        return runner.answer(&prompt, Some(&tokenizer), output, &limits);
    }
    let mut conversation = Conversation {
        session: open::session(&runner.model, &runner.pool, runner.context(CONTEXT)?)?,
        sampler: runner.sampler()?,
        limits,
        read: Vec::new(),
        template,
        tokenizer,
        messages,
        prompt: Timed::default(),
        steps: Timed::default(),
    };
    conversation.talk(runner.args.system.as_deref())
}

/// The messages before the first question.
fn opening(system: Option<&str>) -> Vec<Message> {
    system
        .map(|s| Message::new("system", s))
        .into_iter()
        .collect()
}

/// The tokens of a conversation up to where the next answer begins.
fn encode(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(&template.render(messages, true)?, false)?)
}

struct Conversation {
    session: Session,
    sampler: Sampler,
    limits: Limits,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Vec<Message>,
    /// The tokens that the session holds.
    read: Vec<u32>,
    prompt: Timed,
    steps: Timed,
}

impl Conversation {
    /// Answers every line of standard input.
    fn talk(&mut self, system: Option<&str>) -> Result<()> {
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            eprintln!("A line is a turn. /reset starts anew, /exit or Ctrl-D ends.");
        }
        let mut line = String::new();
        loop {
            if terminal {
                eprint!("> ");
            }
            line.clear();
            let bytes = std::io::stdin().lock().read_line(&mut line);
            if bytes.context("standard input")? == 0 {
                break;
            }
            match line.trim() {
                "" => {}
                "/exit" => break,
                "/reset" => {
                    self.messages = opening(system);
                    self.sampler.reset();
                }
                question => self.turn(question)?,
            }
        }
        if self.prompt.tokens > 0 {
            eprintln!("{}", report::speeds(self.prompt, self.steps));
        }
        Ok(())
    }

    fn turn(&mut self, question: &str) -> Result<()> {
        self.messages.push(Message::new("user", question));
        let prompt = encode(&self.template, &self.tokenizer, &self.messages)?;
        if let Err(error) = check_fits(prompt.len(), self.session.context()) {
            bail!("{error:#}; start anew with /reset, or give a larger --ctx");
        }
        let kept = self.keep(&prompt);
        self.sampler.observe(&prompt).context("the conversation")?;
        let mut sink = report::Sink::new(Some(&self.tokenizer), &prompt, Output::Text)?;
        let unread = &prompt[kept..];
        let (session, sampler) = (&mut self.session, &mut self.sampler);
        let generation = generate(session, sampler, unread, &self.limits, &mut sink)?;
        let answer = sink.finish()?.unwrap_or_default();
        self.messages.push(Message::new("assistant", answer));
        self.read.extend_from_slice(unread);
        // The last token was chosen but not read.
        let unread = generation.ids.len() - 1;
        self.read.extend_from_slice(&generation.ids[..unread]);
        self.prompt = self.prompt.plus(generation.prompt);
        self.steps = self.steps.plus(generation.steps);
        Ok(())
    }

    /// Rewinds the session to what it has in common with `prompt`, which stays in the cache, and
    /// gives the number of those tokens. One token at least is left to be read.
    fn keep(&mut self, prompt: &[u32]) -> usize {
        let most = prompt.len() - 1;
        let kept = common(&self.read, prompt).min(most);
        self.session.rewind(kept);
        self.read.truncate(kept);
        kept
    }
}

/// How many tokens both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_beginnings() {
        assert_eq!(common(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(common(&[], &[1]), 0);
        assert_eq!(common(&[1, 2], &[1, 2, 3]), 2);
    }
}
