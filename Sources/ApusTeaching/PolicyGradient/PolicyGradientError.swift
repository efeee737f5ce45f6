/// Why a policy gradient cannot be run.
public enum PolicyGradientError: Error, Equatable, CustomStringConvertible {
    /// The recipe's prompts and outputs are longer than the model reads.
    case promptsDoNotFit(context: Int, prompt: Int, output: Int)
    /// No prompt is left to train on.
    case noPrompts(files: [String], problem: String)
    /// The reference speaks other tokens than the policy.
    case vocabularies(policy: Int, reference: Int, path: String)
    /// The reference's tokenizer gives other tokens.
    case tokenizers(path: String)
    /// The reference gives scores, no probabilities.
    case referenceHead(path: String)
    /// The chat template writes a conversation with an answer in another way than the prompt before it.
    case template(String)
    /// The recipe lacks something that its task needs.
    case missing(key: String, task: String, needed: String)
    /// A state that a checkpoint holds cannot be gone on from.
    case state(String)
    /// Log-probabilities of outputs by what draws on a GPU.
    case engineLogProbabilities
    /// Every group of outputs had equal rewards, so there was nothing to learn from.
    case nothingToLearn(step: Int, groups: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .promptsDoNotFit(let context, let prompt, let output):
            "expected prompts of at most \(prompt) and outputs of at most \(output) tokens to fit the model's "
                + "\(context) positions; lower policy_gradient.max_prompt_tokens or max_tokens"
        case .noPrompts(let files, let problem): "\(files.joined(separator: ", ")): \(problem)"
        case .vocabularies(let policy, let reference, let path):
            "\(path): expected a reference with the policy's vocabulary of \(policy) tokens, found \(reference)"
        case .tokenizers(let path):
            "\(path): expected a reference with the policy's tokenizer, found one that spells tokens differently"
        case .referenceHead(let path): "\(path): expected a reference with a language-model head, found a score head"
        case .template(let end):
            "the chat template does not continue its own prompt (which ends with \(end)), so that the tokens of an answer "
                + "cannot be told apart; give another one by data.chat_template"
        case .missing(let key, let task, let needed): "\(key): task \(task) needs \(needed), found none"
        case .state(let problem): "the checkpoint's state of the policy gradient: \(problem)"
        case .engineLogProbabilities:
            "policy_gradient.log_probabilities: expected trainer where outputs are drawn on a GPU, found engine; "
                + "policy_gradient.rollout_device: cpu has both"
        case .nothingToLearn(let step, let groups):
            "step \(step): expected at least one prompt whose outputs differ in reward, found none among \(groups) groups"
        }
    }
}
