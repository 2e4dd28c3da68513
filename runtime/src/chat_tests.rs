//! Tests of chat templates, written in the manner of the families that are supported.

use super::*;

const LLAMA3: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

const MISTRAL: &str = r#"{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}"#;

const QWEN3: &str = r#"{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and reasoning_content %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;

const GEMMA: &str = r#"{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"#;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned()).unwrap()
}

fn talk(turns: &[(&str, &str)]) -> Vec<Message> {
    turns
        .iter()
        .map(|&(role, text)| Message::new(role, text))
        .collect()
}

fn render(source: &str, turns: &[(&str, &str)]) -> String {
    template(source).render(&talk(turns), true).unwrap()
}

fn failure(source: &str, turns: &[(&str, &str)]) -> String {
    let result = ChatTemplate::new(source, String::new(), String::new())
        .and_then(|template| template.render(&talk(turns), true));
    result.unwrap_err().to_string()
}

const SYSTEM: (&str, &str) = ("system", "Be kind.");
const HELLO: (&str, &str) = ("user", " Hello <b> & \"you\" ");

#[test]
fn llama3() {
    assert_eq!(
        render(
            LLAMA3,
            &[SYSTEM, HELLO, ("assistant", "Hi.\n"), ("user", "1 < 2?")]
        ),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHello <b> & \"you\"<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n1 < 2?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let without_prompt = template(LLAMA3).render(&talk(&[HELLO]), false).unwrap();
    assert!(without_prompt.ends_with("<|eot_id|>"));
}

#[test]
fn mistral() {
    assert_eq!(
        render(
            MISTRAL,
            &[SYSTEM, HELLO, ("assistant", "Hi."), ("user", "Bye.")]
        ),
        "<s>[INST] Be kind.\n\n Hello <b> & \"you\" [/INST] Hi.</s>[INST] Bye.[/INST]"
    );
    let message = failure(MISTRAL, &[HELLO, HELLO]);
    assert!(
        message.contains("chat template: After the optional system"),
        "{message}"
    );
}

#[test]
fn qwen3() {
    assert_eq!(
        render(
            QWEN3,
            &[
                SYSTEM,
                HELLO,
                ("assistant", "<think>\nwhy\n</think>\n\nHi."),
                ("user", "?")
            ]
        ),
        "<|im_start|>system\nBe kind.<|im_end|>\n\
         <|im_start|>user\n Hello <b> & \"you\" <|im_end|>\n\
         <|im_start|>assistant\nHi.<|im_end|>\n\
         <|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(
            QWEN3,
            &[HELLO, ("assistant", "<think>\nwhy\n</think>\n\nHi.")]
        ),
        "<|im_start|>user\n Hello <b> & \"you\" <|im_end|>\n\
         <|im_start|>assistant\n<think>\nwhy\n</think>\n\nHi.<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn gemma() {
    assert_eq!(
        render(GEMMA, &[SYSTEM, HELLO, ("assistant", "Hi."), ("user", "?")]),
        "<s><start_of_turn>user\nBe kind.\n\nHello <b> & \"you\"<end_of_turn>\n\
         <start_of_turn>model\nHi.<end_of_turn>\n\
         <start_of_turn>user\n?<end_of_turn>\n<start_of_turn>model\n"
    );
    assert!(failure(GEMMA, &[("assistant", "Hi.")]).contains("roles must alternate"));
}

#[test]
fn blocks_take_their_line_with_them() {
    let source = "a\n  {% if true %}\n  b\n  {% endif %}\nc {{ '{}' }}\n";
    assert_eq!(render(source, &[]), "a\n  b\nc {}");
}

#[test]
fn loop_controls_and_generation_tags() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\
                  {%- generation -%} {{ m.content }} {% endgeneration %}{% break %}{% endfor %}";
    assert_eq!(
        render(source, &[SYSTEM, ("user", "x"), ("user", "y")]),
        "x "
    );
}

#[test]
fn json_keeps_the_order_of_keys_and_no_html_escapes() {
    assert_eq!(
        render("{{ messages[0]|tojson }}", &[("user", "<é>")]),
        r#"{"role": "user", "content": "<é>"}"#
    );
}

#[test]
fn dates_come_from_the_clock() {
    let year = render("{{ strftime_now('%Y') }}", &[]);
    assert!(year.parse::<i64>().unwrap() >= 2024, "{year}");
    assert!(failure("{{ strftime_now('%Q') }}", &[]).contains("strftime_now"));
}

#[test]
fn templates_are_found_by_name() {
    let mut config = TokenizerConfig {
        bos_token: Some("B".to_owned()),
        ..TokenizerConfig::default()
    };
    let find = |config: &TokenizerConfig, name| {
        ChatTemplate::from_config(config, name).and_then(|t| t.render(&[], false))
    };
    let message = find(&config, None).unwrap_err().to_string();
    assert_eq!(message, "chat template: the checkpoint has none");
    config.chat_templates = vec![("rag".to_owned(), "r{{ bos_token }}".to_owned())];
    assert_eq!(find(&config, None).unwrap(), "rB");
    config
        .chat_templates
        .push(("default".to_owned(), "d{{ eos_token }}".to_owned()));
    assert_eq!(find(&config, None).unwrap(), "d");
    assert_eq!(find(&config, Some("rag")).unwrap(), "rB");
    let message = find(&config, Some("tool_use")).unwrap_err().to_string();
    assert!(message.ends_with("there is no \"tool_use\", only rag, default"));
}

#[test]
fn bad_templates_are_errors() {
    assert!(failure("{% if %}", &[]).starts_with("chat template: "));
    assert!(failure("a\n{{ nothing.at.all }}", &[]).contains("(line 2)"));
    assert!(failure("{{ messages[0].content.no_such_method() }}", &[HELLO]).contains("line 1"));
    assert!(failure("{% unclosed", &[]).contains("line 1"));
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let message = failure(loops, &[]);
    assert!(message.contains("fuel"), "{message}");
}
