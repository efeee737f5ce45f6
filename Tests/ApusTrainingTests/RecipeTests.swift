import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct RecipeTests {
    @Test func filesAndArgumentsFillARecipe() throws {
        let recipe = try Recipe.parse(
            """
            # A small GLA.
            model:
              attention: gla
              hidden_size: 512
              heads: 8
              tie_embeddings: false
            data: {text: books.txt, train_vocabulary: 4096, sequence_length: 128, batch_size: 4, accumulation: 3}
            optimizer:
              learning_rate: 3e-4
              betas: [0.9, 0.99]
            training:
              tokens: 2_000_000
              compute: float32
            """, overrides: ["model.latent_heads=4", "training.output=runs/a b", "training.evaluate_windows=null"])
        #expect(recipe.model.attention == .gla)
        #expect(recipe.model.hiddenSize == 512)
        #expect(recipe.model.latentHeads == 4)
        #expect(!recipe.model.tieEmbeddings)
        #expect(recipe.data.text == ["books.txt"])
        #expect(recipe.optimizer.learningRate == 3e-4)
        #expect(recipe.optimizer.betas == [0.9, 0.99])
        #expect(recipe.training.output == "runs/a b")
        #expect(recipe.training.evaluateWindows == nil)
        #expect(recipe.training.compute == .float32)
        #expect(recipe.tokensPerStep == 1536)
        #expect(recipe.resolvedSteps == 1303)
        #expect(recipe.model.attentionName == "GLA-4")
    }

    @Test func openSizesFollowThePaper() throws {
        var model = Recipe().model
        model.hiddenSize = 2048
        model.heads = 16
        #expect(model.resolvedHeadWidth == 128)
        model.attention = .gqa
        #expect(model.resolvedKVHeads == 4)
        model.attention = .mla
        #expect(try model.cacheGeometry().elementsPerToken == 4 * 128 + 64)
        #expect(model.resolvedQueryRank == 1024)
        model.attention = .gla
        #expect(try model.cacheGeometry().elementsPerToken == 2 * 2 * 128 + 64)
        model.attention = .gta
        #expect(try model.cacheGeometry().elementsPerToken == 4 * 128 + 64)
        model.hiddenSize = 512
        #expect(model.resolvedFeedForwardWidth == 1408)
    }

    @Test func canonicalTextGivesTheRecipeBack() throws {
        var recipe = try Recipe.parse(
            "data: {path: 'a \"quoted\" \\ path: #1', separator: 'null'}\ntraining: {steps: 7, peak_flops: 4.5e11}",
            overrides: ["schedule.warmup_steps=2", "compare.attention=[gla_q, mha]"])
        #expect(try Recipe.parse(recipe.yaml) == recipe)
        recipe.data.separator = "line\nbreak"
        #expect(try Recipe.parse(recipe.yaml) == recipe)
    }

    @Test func changesSayWhatTheyMeanForAResume() {
        let old = Recipe()
        var new = old
        #expect(old.changes(to: new) == [])
        new.model.kvHeads = 1
        new.optimizer.learningRate = 0.5
        new.training.logEvery = 1
        let changes = old.changes(to: new)
        #expect(changes.map(\.effect) == [.impossible, .trajectory, .none])
        #expect(changes.first?.description == "model.kv_heads: null -> 1")
    }

    @Test(arguments: [
        (
            "model:\n  hiden_size: 3",
            "recipe, line 2: there is no key model.hiden_size; did you mean model.hidden_size?"
        ),
        ("modell:\n  layers: 3", "recipe, line 1: there is no key modell; did you mean model?"),
        ("layers: 3", "recipe, line 1: there is no key layers; did you mean model.layers?"),
        (
            "model:\n  learningRate: 3",
            "recipe, line 2: there is no key model.learningRate; did you mean optimizer.learning_rate?"
        ),
        ("model:\n\n  layers: six", "recipe, line 3: model.layers: expected an integer, found six"),
        ("model:\n  layers: '6'", "recipe, line 2: model.layers: expected an integer, found the text \"6\""),
        ("model:\n  layers: 1.5", "recipe, line 2: model.layers: expected an integer, found 1.5"),
        ("model:\n  rope_theta: .nan", "recipe, line 2: model.rope_theta: expected a number, found .nan"),
        ("model:\n  layers: [1, 2]", "recipe, line 2: model.layers: expected an integer, found a list of 2"),
        ("model: 3", "recipe, line 1: model: expected keys and values, found 3"),
        ("- 3", "recipe: expected YAML, found a list of 1 where sections should be"),
        (
            "model:\n  attention: gqqa",
            "recipe, line 2: model.attention: expected one of mha, mqa, gqa, gta, mla, gla, gla_q, found gqqa"
        ),
        ("model:\n  tie_embeddings: yes", "recipe, line 2: model.tie_embeddings: expected true or false, found yes"),
        (
            "model:\n  heads: 3",
            "recipe, line 2: model.heads: expected a divisor of hidden_size 256 where head_width is null, found 3"
        ),
        ("model:\n  kv_heads: 3", "recipe, line 2: model.kv_heads: expected a divisor of heads 4, found 3"),
        (
            "model:\n  attention: gla\n  latent_heads: 3",
            "recipe, line 3: model.latent_heads: expected a divisor of heads 4, found 3"
        ),
        (
            "model:\n  attention: gla_q\n  query_rank: 33",
            "recipe, line 3: model.query_rank: expected a multiple of latent_heads 2 above 0 for gla_q, found 33"
        ),
        (
            "model:\n  attention: gta\n  rope_width: 64",
            "recipe, line 3: model.rope_width: expected less than the head width 64 for gta, found 64"
        ),
        (
            "model:\n  attention: mla\n  rope_width: 7",
            "recipe, line 3: model.rope_width: expected an even number of rotated elements, at least 2, found 7 (of a "
                + "head width of 64)"
        ),
        ("model:\n  layers: 0", "recipe, line 2: model.layers: expected an integer from 1 to 4096, found 0"),
        (
            "optimizer:\n  betas: [0.9]",
            "recipe, line 2: optimizer.betas: expected two numbers from 0 to below 1, found [0.9]"
        ),
        (
            "training:\n  steps: 10\nschedule: {warmup_steps: 100}",
            "recipe, line 3: schedule.warmup_steps: expected at most the run's 10 steps, found 100"
        ),
        (
            "training:\n  steps: 200\n  tokens: 200",
            "recipe, line 3: training.tokens: expected steps or tokens, not both, found both"
        ),
    ])
    func problemsAreNamed(_ yaml: String, _ message: String) {
        let error = #expect(throws: RecipeError.self) { try Recipe.parse(yaml, overrides: ["data.path=books"]) }
        #expect(error?.description == message)
    }

    @Test func brokenTextIsAnErrorWithItsLine() {
        for (yaml, line) in [("model:\n  layers: [1", 2), ("model:\n layers: 1\n layers: 2", 1), ("a: &x\nb: *y", 2)] {
            let error = #expect(throws: RecipeError.self) { try Recipe.parse(yaml) }
            guard case .syntax(.file("recipe", let found), _) = error?.problems.first else {
                Issue.record("found \(String(describing: error))")
                continue
            }
            #expect(abs(found - line) <= 1)
        }
    }

    @Test func everyProblemIsTold() {
        let error = #expect(throws: RecipeError.self) {
            try Recipe.parse("model:\n  a: 1\n  layers: x", overrides: ["steps", "training.stepz=1"])
        }
        #expect(error?.problems.count == 4)
        #expect(
            error?.description.hasSuffix(
                "argument steps: expected key=value\nargument training.stepz=1: there is no key training.stepz; "
                    + "did you mean training.steps?") == true)
    }

    @Test func theGuideListsEveryKeyAsItIs() throws {
        let guide = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined() + "/docs/training.md"
        let text = try String(contentsOf: URL(filePath: guide), encoding: .utf8)
        #expect(text.contains("\n" + Recipe.reference), "docs/training.md should hold:\n\(Recipe.reference)")
    }

    @Test func aMissingFileIsAnError() {
        let error = #expect(throws: RecipeError.self) { try Recipe.read("/no such recipe.yaml") }
        #expect(error?.description.hasPrefix("/no such recipe.yaml: cannot read the recipe") == true)
    }
}

@Suite struct RecipeTaskTests {
    @Test func tasksHaveTheirData() throws {
        let text =
            "task: reward\nmodel: {from: base}\nreward: {on_policy: a.jsonl, off_policy: [b.jsonl], on_policy_share: 0.25}"
        let recipe = try Recipe.parse(text)
        #expect(recipe.resolvedTask == .reward && recipe.reward.onPolicy == ["a.jsonl"])
        // What a checkpoint stores can be read again, and says the same.
        #expect(try Recipe.parse(recipe.yaml) == recipe)
        #expect(recipe.yaml.hasPrefix("task: reward\nmodel:\n"))
        #expect(try Recipe.parse("data: {chat: c.jsonl}\nmodel: {from: base}").resolvedTask == .sft)
        let started = try Recipe.parse("data: {path: books}\nmodel: {from: base}")
        #expect(try Recipe.parse(started.yaml) == started)
    }

    @Test(arguments: [
        ("task: reward", "model.from"), ("task: reward\nmodel: {from: x}", "reward.on_policy"),
        ("task: reward\nmodel: {from: x}\nreward: {on_policy: a, on_policy_share: 0.5}", "reward.off_policy"),
        ("task: reward\nmodel: {from: x}\nreward: {on_policy: a}\ndata: {path: books}", "data.path"),
        ("data: {path: books}\nreward: {pairs: 7}", "reward.pairs"), ("task: rewards", "task"),
        ("task: sft\ndata: {path: books}", "data.chat"), ("tasks: sft", "tasks"), ("task: [sft]", "task"),
        ("task: pretrain\ndata: {chat: c.jsonl}", "data.chat"),
        ("task: reward\nmodel: {from: x}\nreward: {on_policy: a}\ntraining: {tokens: 5}", "training.tokens"),
    ])
    func whatDoesNotFitTheTaskIsNamed(_ text: String, _ key: String) throws {
        let error = #expect(throws: RecipeError.self) { _ = try Recipe.parse(text) }
        #expect(try #require(error).description.contains(key))
    }
}
