import ApusDistributed
import ApusTensor
import Testing

@Suite struct SingleProcessTests {
    @Test func everyCollectiveGivesWhatIsThere() throws {
        var check = CommunicationCheck(SingleProcess())
        let outcome = try check.run()
        #expect(outcome.failures.isEmpty)
        #expect(outcome.cases > 100)
    }

    @Test func bytesAreCounted() throws {
        let communicator = SingleProcess()
        try communicator.allReduce(Tensor([1, 2, 3], shape: [3]))
        let before = communicator.traffic
        #expect(before[.allReduce].calls == 1 && before[.allReduce].bytes == 12)
        _ = try communicator.allGather(Tensor(uninitialized: [4], dtype: .bf16))
        #expect((communicator.traffic - before)[.allGather].bytes == 8)
        #expect((communicator.traffic - before)[.allReduce].calls == 0)
        #expect(communicator.traffic.total.bytes == 20)
    }

    @Test func wrongArgumentsAreNamed() {
        let communicator = SingleProcess()
        let (three, four) = (Tensor([0, 0, 0], shape: [3]), Tensor([0, 0, 0, 0], shape: [4]))
        #expect(throws: CommunicationError.self) {
            try communicator.run(.allGather(from: CommunicationBuffer(three), into: CommunicationBuffer(four)))
        }
        #expect(throws: CommunicationError.self) { try communicator.broadcast(three, from: 1) }
        #expect(throws: CommunicationError.self) {
            try communicator.allReduce(Tensor(uninitialized: [2], dtype: .u8))
        }
    }
}
