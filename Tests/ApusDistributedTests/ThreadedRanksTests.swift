import ApusDistributed
import ApusTensor
import Testing

@Suite struct ThreadedRanksTests {
    @Test(arguments: [2, 3, 4]) func everyCollectiveGivesWhatItMust(_ size: Int) throws {
        let outcomes = try ThreadedRanks.run(size) { communicator in
            var check = CommunicationCheck(communicator, sends: false)
            return try check.run()
        }
        #expect(outcomes.allSatisfy { $0.failures.isEmpty && $0.cases > 100 })
    }

    @Test func ranksHearWhatTheFirstTells() throws {
        let messages: [[Int32]] = [[], [1, -2, 3], Array(0..<5000), [.max, .min]]
        let heard = try ThreadedRanks.run(3) { communicator -> [[Int32]] in
            try messages.map { message -> [Int32] in
                guard communicator.rank > 0 else {
                    try communicator.tell(message)
                    return message
                }
                return try communicator.hear()
            }
        }
        #expect(heard == [messages, messages, messages])
    }

    @Test func numbersOfALineComeBack() {
        for numbers: [Int32] in [[], [0], [31, 32, 33, 1023, 1024, 1025], [-1, .min, .max], Array(-500..<500)] {
            let text = LinkNumbers.encoded(numbers)
            #expect(LinkNumbers.decoded(text) == numbers)
            #expect(text.utf8.allSatisfy { $0 > 32 && $0 < 127 })
        }
        for wrong in [" ", "_", "?\u{7f}", "______________?", "é"] { #expect(LinkNumbers.decoded(wrong) == nil) }
    }

    @Test func ranksOnCPUsQueueNothingOnStreams() throws {
        let streams = try ThreadedRanks.run(2) { communicator in communicator.stream == nil }
        #expect(streams == [true, true])
    }

    @Test func partsAreOrderedByTheirKey() throws {
        let found = try ThreadedRanks.run(4) { communicator in
            let part = try communicator.split(color: communicator.rank % 2, key: -communicator.rank)
            let sum = Tensor([Float(communicator.rank)], shape: [1])
            try part.allReduce(sum)
            return [part.rank, part.size, Int(sum.floats[0])]
        }
        #expect(found == [[1, 2, 2], [1, 2, 4], [0, 2, 2], [0, 2, 4]])
    }
}
