import ApusTensor
import ApusTraining
import Testing

@Suite struct DeviceTests {
    private func recipe(_ device: String) throws -> Recipe {
        try Recipe.parse("data: {path: none}\ntraining: {device: \(device)}", name: "test")
    }

    @Test(arguments: [("cpu", Device.cpu), ("cuda", .cuda(0)), ("cuda:3", .cuda(3))])
    func recipesNameDevices(text: String, device: Device) throws {
        let recipe = try recipe(text)
        #expect(recipe.training.device == device)
        #expect(try Recipe.parse(recipe.yaml, name: "again").training.device == device)
    }

    @Test(arguments: ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "3"])
    func othersAreRefused(text: String) {
        let error = #expect(throws: RecipeError.self) { _ = try recipe("\"\(text)\"") }
        #expect(error?.description.contains("training.device") == true)
    }

    @Test func outputsAreDrawnOnTheCPUOrWhereThePolicyIsTrained() throws {
        func recipe(_ rollouts: String, _ training: String, _ more: String = "") throws -> Recipe {
            try Recipe.parse(
                """
                task: rloo
                model: {from: m}
                policy_gradient: {prompts: [p], reward: [exact], rollout_device: \(rollouts)\(more)}
                training: {device: \(training)}
                """, name: "test")
        }
        for (rollouts, training) in [("null", "cuda"), ("cpu", "cuda:1"), ("cuda:1", "cuda:1"), ("cpu", "cpu")] {
            #expect(try recipe(rollouts, training).policyGradient.rolloutDevice == Device(rollouts))
        }
        for (rollouts, training, more, key) in [
            ("cuda", "cpu", "", "rollout_device"), ("cuda", "cuda:1", "", "rollout_device"),
            ("cuda", "cuda", ", log_probabilities: engine", "log_probabilities"),
        ] {
            let error = #expect(throws: RecipeError.self) { _ = try recipe(rollouts, training, more) }
            #expect(error?.description.contains("policy_gradient.\(key)") == true)
        }
        _ = try recipe("null", "cuda", ", log_probabilities: engine")
    }

    @Test func ranksTrainOnCPUsOrGPUsOfTheirOwn() throws {
        let cpu = CPUBackend(threads: 1)
        #expect(try recipe("cpu").backend(cpu: cpu, ranks: 4) === cpu)
        #expect(try recipe("cpu").gpu(localRank: 1) == nil)
        let shared = #expect(throws: TrainerError.self) { _ = try recipe("cuda").backend(cpu: cpu, ranks: 2) }
        #expect(shared == .deviceOfRanks(device: "cuda:0", ranks: 2))
    }

    @Test(.enabled(if: CUDALibraries.driver.report.status == .missing))
    func aMissingGPUIsNamedByItsRank() throws {
        let error = #expect(throws: TrainerError.self) { _ = try recipe("cuda:2").gpu(localRank: 3) }
        #expect(error?.description.contains("training.device cuda:5") == true)
    }

    @Test(.enabled(if: CUDALibraries.driver.report.status == .missing))
    func withoutAGPUTheErrorSaysWhatIsMissing() throws {
        let error = #expect(throws: TrainerError.self) {
            _ = try recipe("cuda").backend(cpu: CPUBackend(threads: 1))
        }
        #expect(error?.description.contains("libcuda") == true)
    }

    @Test func missingMemoryComesWithAdvice() {
        let error = TrainerError.device(
            step: 3, .outOfMemory(requested: 1 << 30, free: 5, total: 9, cached: 0, inUse: 4), lastCheckpoint: nil)
        for part in ["step 3", "1073741824", "data.batch_size", "gradient_checkpointing"] {
            #expect(error.description.contains(part))
        }
    }
}
