import ApusModels
import ApusPlanning
import Testing

@Suite struct TrainingPlanTests {
    private func plan(
        _ name: String = "llama-3-8b", _ change: (inout TrainingPlan.Settings) -> Void = { _ in }
    ) throws -> TrainingPlan {
        var settings = TrainingPlan.Settings()
        change(&settings)
        return try TrainingPlan(
            try NamedModels.configuration(name), on: try DeviceFigures.named("h100"), settings: settings)
    }

    /// 18 bytes a parameter with AdamW in bf16, 16 in float32.
    @Test func stateHasItsBytes() throws {
        let parameters = 8_030_261_248.0
        let bf16 = try plan().memory
        #expect(bf16.weights + bf16.gradients + bf16.moments == 18 * parameters)
        let f32 = try plan { $0.computesBF16 = false }.memory
        #expect(f32.weights + f32.gradients + f32.moments == 16 * parameters)
        let zero = try plan {
            $0.dataParallel = 8
            $0.shardsOptimizer = true
        }.memory
        #expect(zero.moments == parameters)
    }

    /// 6 operations a weight and token, beside attention's.
    @Test func operationsFollowTheUsualCount() throws {
        let model = try NamedModels.configuration("llama-3-8b")
        let weights = Double(model.parameterCount - 128_256 * 4096)
        let found = try plan { $0.context = 2 }.operationsPerToken
        #expect(abs(found / (6 * weights) - 1) < 0.001)
        // 12 layers x heads x width x context for causal attention with FlashAttention's recomputation is 14 / 2.
        let long = try plan { $0.context = 8192 }.operationsPerToken - 6 * weights
        #expect(abs(long / (7 * 32 * 4096 * 8192) - 1) < 0.01)
        // The count does not depend on the cut.
        let cut = try plan { $0.tensorParallel = 8 }.operationsPerToken
        #expect(abs(cut / (try plan().operationsPerToken) - 1) < 0.001)
    }

    @Test func checkpointingTradesMemoryForTime() throws {
        let kept = try plan()
        let again = try plan { $0.checkpointsLayers = true }
        #expect(again.memory.activations < kept.memory.activations / 4)
        #expect(abs(again.time.compute / kept.time.compute - 4.0 / 3) < 0.05)
    }

    @Test func gradientsHideBehindTheBackwardPass() throws {
        let open = try plan {
            $0.dataParallel = 8
            $0.overlap = 0
        }
        #expect(open.time.exposedCommunication == open.time.gradientCommunication)
        let bytes = 2 * 7.0 / 8 * 4 * 8_030_261_248
        #expect(abs(open.time.gradientCommunication / (bytes / (0.8 * 450e9)) - 1) < 1e-9)
        let hidden = try plan {
            $0.dataParallel = 8
            $0.batch = 64
        }
        #expect(hidden.time.exposedCommunication == 0)
        #expect(hidden.time.gradientCommunication == open.time.gradientCommunication)
    }

    @Test func unevenBatchesAreErrors() {
        #expect(throws: PlanningError.self) {
            try plan {
                $0.dataParallel = 3
                $0.batch = 8
            }
        }
        #expect(throws: PlanningError.self) { try plan { $0.microBatch = 3 } }
    }
}
